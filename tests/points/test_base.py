import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.plain import TorchEngine
from gpukmeans.points.base import share
from gpukmeans.points.tensor import tensor_points


def shares(drawn, values):
    """Of the draws (n, 1) of one run, which part was each of these values."""
    return (drawn == torch.tensor(values, dtype=drawn.dtype)).double().mean(dim=0)


@given(
    st.integers(1, 50),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-1e9, 1e9),
    st.floats(1e-9, 1e9),
    st.integers(0, 2**31),
)
def test_no_total_overflows_at_the_limits_of_the_grid(n, dtype, offset, spread, seed):
    x = torch.rand(n, 2, generator=seeded(seed), dtype=dtype) * spread + offset
    weights = torch.rand(n, generator=seeded(seed + 1), dtype=dtype) + 1e-3
    points = points_of(x, weights)
    # The worst case: every point as far from its center as the range allows.
    low, high = torch.aminmax(x, dim=0)
    far = torch.where(x > (low + high) / 2, low, high)[None, :1]
    moments = points.measure(far, points.farthest(far))
    total = weights.double().sum()
    expected = (weights.double()[:, None] * x.double()).sum(dim=0) / total
    torch.testing.assert_close(moments.means()[0, 0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.weight_of_clusters()[0, 0], total, rtol=1e-9, atol=0)
    inertia = (points.assign(far).sqdist.double() * weights).sum().item()
    assert moments.weighted_sqdist().item() == pytest.approx(inertia, rel=1e-9)


def test_the_farthest_is_the_diagonal_of_the_box_around_points_and_centers():
    points = points_of(torch.tensor([[0.0, 5.0], [1.0, 5.0]]))
    assert points.farthest(torch.tensor([[[0.5, 5.0]]])).tolist() == [1]
    assert points.farthest(torch.tensor([[[-3.0, 9.0]]])).tolist() == [16 + 16]
    both = points.select(torch.tensor([0, 0])).farthest(torch.tensor([[[0.5, 5.0]], [[-3.0, 9.0]]]))
    assert both.tolist() == [1, 32]


# Four standard deviations of a share of 20,000 draws are less than 0.0142.
FOUR_SIGMA = {"rtol": 0, "atol": 0.0142}


def test_points_are_drawn_by_weight():
    x = torch.arange(4.0)[:, None]
    drawn = points_of(x, torch.tensor([1.0, 2.0, 0.5, 6.5])).draw(20_000, seeded())[0]
    expected = torch.tensor([0.1, 0.2, 0.05, 0.65]).double()
    torch.testing.assert_close(shares(drawn, [0, 1, 2, 3]), expected, **FOUR_SIGMA)


@given(st.integers(1, 50), st.integers(0, 2**31))
def test_without_weights_the_draws_are_those_of_weights_that_are_all_1(n, seed):
    x = torch.arange(2.0 * n).reshape(2, n, 1)
    plain, ones = points_of(x), points_of(x, torch.ones(2, n, dtype=torch.int64))
    near = plain.assign(x[:, :1])
    for name, more in (("draw", ()), ("draw_new", (near,)), ("draw_far", (near,))):
        draws = (getattr(points, name)(7, seeded(seed), *more) for points in (plain, ones))
        assert torch.equal(*draws), name


def test_far_points_are_drawn_by_weight_times_squared_distance():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    points = points_of(x, torch.tensor([100, 4, 1, 1]))
    near = points.assign(torch.tensor([[[0.0]]]))
    assert near.sqdist.tolist() == [[0, 1, 4, 9]]
    drawn = points.draw_far(20_000, seeded(), near)[0]
    expected = torch.tensor([0, 4, 4, 9]).double() / 17
    torch.testing.assert_close(shares(drawn, [0, 1, 2, 3]), expected, **FOUR_SIGMA)


def test_new_points_are_drawn_by_weight_among_those_off_the_centers():
    points = points_of(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([100, 3, 1]))
    drawn = points.draw_new(20_000, seeded(), points.assign(torch.tensor([[[0.0]]])))[0]
    torch.testing.assert_close(shares(drawn, [0, 1, 5]), torch.tensor([0, 0.75, 0.25]).double(), **FOUR_SIGMA)


def test_where_all_points_are_centers_all_are_drawn_by_weight():
    points = points_of(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 1]))
    near = points.assign(torch.tensor([[[2.0], [1.0]]]))
    for draw in (points.draw_far, points.draw_new):
        drawn = draw(20_000, seeded(), near)[0]
        torch.testing.assert_close(shares(drawn, [1, 2]), torch.tensor([0.75, 0.25]).double(), **FOUR_SIGMA)


def test_where_all_that_is_left_is_nearer_than_a_step_it_is_drawn_by_weight():
    # Squared distances of 1e-305 are less than a step of the finest grid there is, 2**-1000.
    x = torch.tensor([[0.0], [3e-153], [6e-153], [1.0]], dtype=torch.float64)
    points = points_of(x, torch.tensor([100, 3, 1, 100]))
    drawn = points.draw_far(20_000, seeded(), points.assign(x[None, [0, 3]]))[0]
    expected = torch.tensor([0, 0.75, 0.25, 0]).double()
    torch.testing.assert_close(shares(drawn, x.flatten().tolist()), expected, **FOUR_SIGMA)


def test_a_draw_reaches_rows_past_the_limit_of_multinomial():
    rows = 2**24 + 3
    weights = torch.ones(rows, dtype=torch.uint8)
    x = torch.zeros(rows, 1)
    x[-1] = 7
    points = points_of(x, weights)
    near = Assignment(torch.zeros(1, 1, dtype=torch.int64).expand(1, rows), x.mT)
    assert points.draw_new(1, seeded(), near).item() == 7


def test_potentials_are_the_inertia_with_one_more_center():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    points = points_of(x, torch.tensor([1, 2, 3]))
    near = points.assign(torch.tensor([[[0.0]]]))
    potentials = points.potentials(near, torch.tensor([[[4.0], [1.0], [9.0]]]))[0]
    assert (potentials / potentials[0] * 2).tolist() == [2, 27, 2 + 48]


def test_totals_are_the_weight_of_the_points_nearest_to_each_center():
    x = torch.tensor([[[0.0], [1.0], [4.0]], [[5.0], [5.0], [0.0]]])
    centers = torch.tensor([[[0.0], [4.0], [9.0]], [[5.0], [0.0], [5.0]]])
    for weights, expected in [
        (None, [[2, 1, 0], [2, 1, 0]]),
        (torch.tensor([[1, 2, 3], [1, 0, 7]]), [[3, 3, 0], [1, 7, 0]]),
        (torch.tensor([[0.5, 0.25, 1e-3], [1.0, 0.5, 0.0]]).double(), [[0.75, 1e-3, 0], [1.5, 0, 0]]),
    ]:
        points = points_of(x, weights)
        found = points.totals(points.assign(centers), 3)
        torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-15, atol=0)


def test_gathered_centers_are_points_of_these_totals():
    points = points_of(torch.rand(2, 5, 1))
    centers = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    gathered = points.gathered(centers, torch.tensor([[5, 0], [1, 4]]))
    assert torch.equal(gathered.part.x, centers)
    assert gathered.grid.lowest.tolist() == [[1], [3]]
    assert gathered.grid.highest.tolist() == [[1], [4]]  # not of what weighs nothing
    assert gathered.draw(50, seeded())[0].unique().tolist() == [1]
    assert gathered.draw(50, seeded())[1].unique().tolist() == [3, 4]


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=50)
def test_the_nearest_of_centers_and_more_is_that_of_all_of_them(k, more, width, seed):
    # Few levels, so that several centers are equally near.
    x = torch.randint(3, (2, 40, width), generator=seeded(seed)) / 3
    centers = torch.randint(3, (2, k + more, width), generator=seeded(seed + 1)) / 3
    points = points_of(x)
    before = points.assign(centers[:, :k])
    kept = Assignment(*(tensor.clone() for tensor in before))
    found, expected = points.nearer(before, centers[:, k:], k), points.assign(centers)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.sqdist, expected.sqdist)
    assert all(map(torch.equal, before, kept))


def test_blocks_of_rows_change_no_draw_and_no_potential(monkeypatch, china):
    points = points_of(china.reshape(-1, 3)[:5000].view(2, 2500, 3))
    candidates = points.draw(4, seeded())
    near = points.assign(candidates[:, :1])

    def found():
        nearer = points.nearer(near, candidates[:, 1:2], 1)
        return points.potentials(near, candidates), *nearer, points.draw_far(9, seeded(), nearer)

    whole = found()
    for size in (60, 3 * 4 * 2500):
        monkeypatch.setattr("gpukmeans.points.tensor._BLOCK", size)
        assert all(map(torch.equal, found(), whole))


TOTALS = st.integers(1, 2**62 - 1) | st.sampled_from([1, 2, 3, 2**31 - 1, 2**31, 2**31 + 1, 2**61, 2**62 - 1])
RANDOM = st.integers(0, 2**62 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**61, 2**62 - 2, 2**62 - 1])


@given(st.lists(RANDOM, min_size=1, max_size=4), st.lists(TOTALS, min_size=1, max_size=4))
def test_a_share_is_the_floor_of_random_times_total_exactly(random, totals):
    found = share(torch.tensor(random), torch.tensor(totals)[:, None])
    assert found.tolist() == [[number * total // 2**62 for number in random] for total in totals]
    assert all(0 <= share < total for row, total in zip(found.tolist(), totals, strict=True) for share in row)


@given(TOTALS, st.data())
def test_each_integer_below_the_total_is_the_share_of_equally_many_random_numbers_but_for_one(total, data):
    which = data.draw(st.integers(0, total - 1))
    # The first random number whose share is this integer, and the first whose share is a larger one.
    first, after = (-(-number * 2**62 // total) for number in (which, which + 1))
    found = share(torch.tensor([first, after - 1]), torch.tensor([[total]]))
    assert found.tolist() == [[which, which]]
    assert after - first in (2**62 // total, 2**62 // total + 1)
    if which:
        assert share(torch.tensor([first - 1]), torch.tensor([[total]])).item() == which - 1


def test_draws_are_uniform_for_a_total_that_no_power_of_two_divides():
    # The remainder of 62 random bits would be the last point with odds of 2 in 8 instead of 1 in 3.
    points = points_of(torch.tensor([[0.0], [1.0], [2.0]]), torch.full((3,), 2**59 + 1))
    drawn = points.draw(20_000, seeded())[0]
    torch.testing.assert_close(shares(drawn, [0, 1, 2]), torch.full((3,), 1 / 3).double(), **FOUR_SIGMA)


def batch(generator, n, width, dtype=torch.float32, *, weighted=True):
    """Three problems: integers, so that points repeat, of which the second has a large spread and the third a small."""
    spread = torch.tensor([1.0, 100.0, 1e-2], dtype=dtype)[:, None, None]
    x = torch.randint(-3, 4, (3, n, width), generator=generator) * spread
    weights = torch.rand(3, n, generator=generator, dtype=dtype)
    weights[:, 1:].mul_(torch.randint(2, (3, n - 1), generator=generator))  # many of weight 0
    return (x, weights) if weighted else (x, None)


def asked(points, centers, seed):
    """What these points answer to each question that there is, the draws with a new generator each."""
    near = points.assign(centers)
    candidates = points.draw_far(5, seeded(seed), near)
    nearer = points.nearer(near, candidates, centers.shape[1])
    moments = points.measure(centers, points.farthest(centers))
    return {
        "farthest": points.farthest(centers),
        "labels": near.labels,
        "sqdist": near.sqdist,
        "draw": points.draw(4, seeded(seed)),
        "draw_new": points.draw_new(4, seeded(seed), near),
        "draw_far": candidates,
        "draw_far later": points.draw_far(4, seeded(seed + 1), nearer),
        "draw_new later": points.draw_new(4, seeded(seed + 1), nearer),
        "nearer labels": nearer.labels,
        "nearer sqdist": nearer.sqdist,
        "potentials": points.potentials(near, candidates),
        "totals": points.totals(nearer, centers.shape[1] + 5).double(),
        "sums": moments.sums,
        "means": moments.means(),
        "weights": moments.weight_of_clusters(),
        "inertia": moments.weighted_sqdist(),
        "worst_row": moments.worst_row,
        "worst_x": moments.worst_x,
        "worst_sqdist": moments.worst_sqdist,
    }


@given(
    problems=st.just([0, 0, 1]) | st.lists(st.integers(0, 2), min_size=1, max_size=5),
    n=st.integers(1, 15),
    k=st.integers(1, 5),
    width=st.sampled_from([1, 3, 10]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_each_run_of_a_batch_gets_what_it_gets_alone(problems, n, k, width, dtype, weighted, seed):
    generator = seeded(seed)
    x, weights = batch(generator, n, width, dtype, weighted=weighted)
    centers = x[problems][:, torch.randint(n, (k,), generator=generator)]
    found = asked(points_of(x, weights).select(torch.tensor(problems)), centers, seed)
    for run, problem in enumerate(problems):
        own = points_of(x[problem], None if weights is None else weights[problem])
        for name, expected in asked(own, centers[run, None], seed).items():
            assert torch.equal(found[name][run].nan_to_num(), expected[0].nan_to_num()), name


@given(
    n=st.integers(1, 15),
    k=st.integers(1, 5),
    width=st.sampled_from([1, 3, 10]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    integers=st.booleans(),
    out=st.sampled_from([1.0, 100.0, 1e12]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_rows_of_weight_0_change_no_bit_of_what_the_others_get(n, k, width, dtype, integers, out, seed):
    generator = seeded(seed)
    x, weights = batch(generator, n, width, dtype)
    x, weights = x[0], weights[0]
    if integers:
        weights = (weights * 10).ceil().long()
    present = weights > 0
    centers = x[present][torch.randint(int(present.sum()), (1, k), generator=generator)]
    x[~present] *= out
    found, expected = (
        asked(points_of(x, weights), centers, seed),
        asked(points_of(x[present], weights[present]), centers, seed),
    )
    rows = present.nonzero().squeeze(1)
    for name in ("labels", "sqdist", "nearer labels", "nearer sqdist"):
        found[name] = found[name][:, rows]
    expected["worst_row"] = rows[expected["worst_row"]]
    for name in expected:
        assert torch.equal(found[name].nan_to_num(), expected[name].nan_to_num()), name


def test_a_far_row_of_weight_0_does_not_hide_how_far_the_others_are():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e15]])
    points = points_of(x, torch.tensor([100, 4, 1, 1, 0]))
    near = points.assign(torch.tensor([[[0.0]]]))
    drawn = points.draw_far(20_000, seeded(), near)[0]
    expected = torch.tensor([0, 4, 4, 9, 0]).double() / 17
    torch.testing.assert_close(shares(drawn, x.flatten().tolist()), expected, **FOUR_SIGMA)
    potentials = points.potentials(near, torch.tensor([[[3.0], [0.0]]]))[0].double()
    assert (potentials / potentials[1]).tolist() == [(4 + 1) / (4 + 4 + 9), 1]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_row_of_weight_0_is_never_drawn_nor_the_worst_and_does_not_widen_the_range(place):
    x, weights = torch.tensor([[1.0], [2.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 1.0, 0.5])
    x = torch.cat([x[:place], torch.tensor([[50.0]]), x[place:]])
    points = points_of(x, torch.cat([weights[:place], torch.zeros(1), weights[place:]]))
    near = points.assign(torch.tensor([[[1.0]]]))
    for drawn in (
        points.draw(1000, seeded()),
        points.draw_new(1000, seeded(), near),
        points.draw_far(1000, seeded(), near),
        points.draw_new(1000, seeded(), points.assign(x[None])),
        points.draw_far(1000, seeded(), points.assign(x[None])),
    ):
        assert set(drawn.flatten().tolist()) <= {1, 2, 3}
    assert points.grid.lowest.tolist() == [[1]]
    assert points.grid.highest.tolist() == [[3]]
    centers = torch.tensor([[[1.0]]])
    assert points.farthest(centers).tolist() == [4]
    assert points.measure(centers, points.farthest(centers)).worst_x.tolist() == [[3]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
@pytest.mark.parametrize("size", [1, 7, 1 << 18])
def test_the_range_is_that_of_the_rows_of_weight_in_whatever_blocks(size, dtype, monkeypatch):
    monkeypatch.setattr("gpukmeans.points.tensor._BLOCK", size)
    x = torch.randint(256, (3, 11, 2), generator=seeded()).to(dtype)
    weights = torch.randint(2, (3, 11), generator=seeded())
    points = points_of(x, weights)
    for problem in range(3):
        rows = x[problem][weights[problem] > 0].double()
        assert torch.equal(points.survey.lowest[problem], rows.amin(dim=0))
        assert torch.equal(points.survey.highest[problem], rows.amax(dim=0))


@pytest.mark.parametrize(
    ("runs", "problems"),
    [
        (torch.tensor([0, 0, 1]), [2, 2, 0]),
        (torch.tensor([3]), [1]),
        (torch.tensor([True, False, False, True]), [2, 1]),
    ],
    ids=str,
)
def test_the_points_of_some_of_the_runs_are_those_of_their_problems(runs, problems):
    x, weights = batch(seeded(), 8, 2)
    points = points_of(x, weights).select(torch.tensor([2, 0, 0, 1]))
    selected = points.select(runs)
    assert list(selected.problems) == problems
    assert torch.equal(selected.grid.sum, points_of(x, weights).grid.sum[problems])
    assert selected.draw(1, seeded()).shape == (len(problems), 1, 2)
    assert torch.equal(selected.assign(x[problems]).labels, points_of(x, weights).assign(x).labels[problems])


def test_an_engine_is_bound_once_for_all_selections_of_its_points():
    bound = []

    class Counting(TorchEngine):
        def bind(self, x, weights):
            bound.append(x)
            return super().bind(x, weights)

    points = tensor_points(torch.rand(2, 5, 1), None, Counting(), torch.float32)
    for selected in (points.select(torch.tensor([0, 0, 1])), points, points.select(torch.tensor([1]))):
        selected.assign(torch.rand(len(selected.problems), 2, 1))
    assert len(bound) == 1
