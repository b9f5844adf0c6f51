from dataclasses import replace

import pytest
import torch
from helpers.problems import assert_same_moments, assert_same_results, fixed_point_of, seeded
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpukmeans import kmeans
from gpukmeans.engines.native import few
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans.engines.plain import PlainEngine

DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SORTED = NativeEngine(sorts_from=1)

KINDS = {
    "uniform": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64),
    "on a lattice": lambda shape, g: torch.randint(3, shape, generator=g).double() / 3,
    "duplicates": lambda shape, g: torch.rand(shape[0], 5, shape[2], generator=g).repeat(1, shape[1], 1)[:, : shape[1]],
    "far from the origin": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) - 1e6,
    "with outliers": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64) ** 9,
    "near the smallest number": lambda shape, g: torch.randint(9, shape, generator=g).double() * 3e-23,
    "flat": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) * torch.eye(shape[2])[0],
}
WEIGHTS = {
    "none": lambda shape, g: None,
    "counts, some zero": lambda shape, g: torch.randint(3, shape, generator=g),
    "fractions": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) * 9,
    "of many magnitudes": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) ** 30,
}


def check_rounds(x, weights, rounds, problems, engine=SORTED):
    """Each call of one bound engine has the result of the plain engine.

    `rounds` are centers, a factor of the scale of squared distances and one of the scales of sums.
    """
    native, plain = engine.bind(x, weights), PlainEngine().bind(x, weights)
    fixed_point = fixed_point_of(x, weights).select(torch.tensor(problems))
    for centers, finer, coarser in rounds:
        sums = {name: getattr(fixed_point, name) / coarser for name in ("sum", "weight")}
        scales = replace(fixed_point, sqdist=fixed_point.sqdist * finer, **sums)
        assert_same_moments(native.measure(centers, scales, problems), plain.measure(centers, scales, problems))
        for at in (centers, centers.flip(1)):
            for found, expected in zip(native.assign(at, problems), plain.assign(at, problems), strict=True):
                assert torch.equal(found, expected)


def rounds_from(centers, extent, generator):
    """Centers as Lloyd's loop moves them, and as it does not: none, few, all, by little and by much."""
    width = centers.shape[2]
    for step, share, finer, coarser in [
        (0, 0, 1, 1),
        (1e-2, 1, 1, 1),
        (1e-3, 0.3, 1, 1),
        (0, 0, 1, 1),
        (1e-3, 0.1, 4, 1),
        (1, 0.2, 4, 2),
        (0, 0, 8, 2),
        (1e-4, 1, 8, 2),
    ]:
        noise = torch.randn(centers.shape, generator=generator, dtype=torch.float64)
        if step == 1e-3:  # along one axis
            noise *= torch.eye(width)[torch.randint(width, (), generator=generator)]
        moves = torch.rand(centers.shape[:2], generator=generator)[..., None] < share
        centers = (centers.double() + noise * moves * step * extent).to(centers.dtype)
        yield centers, finer, coarser


@given(
    width=st.integers(1, 8),
    n=st.sampled_from([1, 63, 64, 65, 1000, 1100]),
    k=st.sampled_from([1, 2, 15, 16, 17, 90, None]),
    kind=st.sampled_from(list(KINDS)),
    weighted=st.sampled_from(list(WEIGHTS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
@example(width=1, n=1000, k=None, kind="on a lattice", weighted="none", dtype=torch.float32, seed=1)
@settings(max_examples=60)
def test_every_round_has_the_bits_of_the_plain_engine(width, n, k, kind, weighted, dtype, seed):
    generator = seeded(seed)
    x = KINDS[kind]((2, n, width), generator).to(dtype)
    weights = WEIGHTS[weighted]((2, n), generator)
    if weights is not None:
        weights[:, 0] = 1
    k = n if k is None else min(k, n)
    start = x[[1, 0, 1]][:, torch.randperm(n, generator=generator)[:k]].clone()
    extent = (x.double().amax(dim=1) - x.double().amin(dim=1)).max()
    check_rounds(x, weights, rounds_from(start, extent, generator), [1, 0, 1])


@pytest.mark.parametrize("engine", [NativeEngine(), SORTED], ids=["as given", "sorted"])
@pytest.mark.parametrize(("dtype", "weights_dtype"), list(zip(DTYPES, [None, *DTYPES[1:][::-1]], strict=True)))
def test_points_and_weights_may_be_of_any_dtype(each_library, engine, dtype, weights_dtype):
    generator = seeded()
    x = (torch.randn(2, 200, 3, generator=generator, dtype=torch.float64) * 40).clamp(0).to(dtype)
    weights = None if weights_dtype is None else torch.randint(4, (2, 200), generator=generator).to(weights_dtype)
    computed = torch.float64 if dtype in (torch.int32, torch.int64, torch.float64) else torch.float32
    start = x[:, :20].to(computed)
    check_rounds(x, weights, rounds_from(start, 40, generator), [0, 1], engine)


def test_half_precision_is_converted_exactly():
    bits = torch.arange(-(1 << 15), 1 << 15).short()
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)
        x = x[x.isfinite() & (x.abs() < 1e4)][None, :, None]
        found = NativeEngine().bind(x, None).assign(torch.zeros(1, 1, 1), [0])
        assert torch.equal(found.sqdist, x.float().square()[..., 0])


@pytest.mark.parametrize("engine", [NativeEngine(), SORTED], ids=["as given", "sorted"])
def test_points_weights_and_centers_may_have_any_strides(engine):
    generator = seeded()
    x = torch.rand(3, 2, 300, generator=generator).permute(1, 2, 0)
    weights = torch.rand(300, 2, generator=generator).T
    rounds = [(torch.rand(9, 3, 2, generator=seeded(seed)).permute(2, 0, 1), 1, 1) for seed in range(3)]
    check_rounds(x, weights, rounds, [1, 0], engine)
    check_rounds(x.expand(2, 300, 3)[:, ::3], weights[:, ::3], rounds, [1, 0], engine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", range(1, 9))
def test_a_center_stays_a_candidate_where_rounding_decides(each_library, width, dtype):
    # Boxes with two values, of which one is as far from b as from c, up to rounding: c is at the limit of what the
    # corner test excludes.
    generator = seeded(width)
    boxes = 100

    def random():
        return torch.randn(boxes, width, generator=generator, dtype=torch.float64)

    corner = torch.zeros(boxes, width, dtype=torch.float64)
    corner[:, 0] = torch.arange(boxes) * 200.0
    radius = random()
    b = corner + radius
    other = random()
    c = corner + other * (radius.norm(dim=1) / other.norm(dim=1))[:, None]
    opposite = corner - random().abs() * 1e-2 * (c - b).sign()
    x = torch.stack([corner, opposite], dim=1).repeat_interleave(32, dim=1).view(1, -1, width).to(dtype)
    centers = torch.stack([b, c], dim=1).view(1, -1, width).to(dtype)
    check_rounds(x, None, [(centers, 1, 1), (centers, 1, 1)], [0])


def flat_boxes(width, dtype, extents):
    """Problems of one box each, (P, 64, D): points at this extent in the second coordinate, up and down.

    And centers (P, 16, D): the first and last at the midpoint, the others far away.
    """
    x = torch.zeros(len(extents), 64, width, dtype=torch.float64)
    x[:, ::2, 1], x[:, 1::2, 1] = extents[:, None], -extents[:, None]
    centers = torch.zeros(len(extents), 16, width, dtype=torch.float64)
    centers[:, 1:-1, 0] = 1e3 * extents[:, None]
    return x.to(dtype), centers.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", range(2, 9))
def test_a_center_stays_a_candidate_where_the_extent_of_the_box_hides_its_distance(each_library, width, dtype):
    # The last center is the midpoint. The distance of the first one from it is lost by rounding, when the square of the
    # extent is added, so that all points are equally far from both: the first one wins the tie.
    extents = 1 + torch.rand(40, generator=seeded(width), dtype=torch.float64)
    x, centers = flat_boxes(width, dtype, extents)
    centers[:, 0, 0] = torch.linspace(1e-3, 0.5, 40, dtype=dtype) * torch.finfo(dtype).eps ** 0.5
    assert (NativeEngine().bind(x, None).assign(centers, list(range(40))).labels == 0).all()
    check_rounds(x, None, [(centers, 1, 1)] * 2, list(range(40)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", range(2, 9))
def test_lists_last_by_the_distance_of_points_and_not_of_the_midpoint_alone(each_library, width, dtype):
    # The slack of the lists is four times the move of a far center. Then the first center moves up and the last down.
    # Both are near the midpoint, so that the border between them turns by more than at the midpoint.
    extents = 1 + torch.rand(40, generator=seeded(width), dtype=torch.float64)
    x, start = flat_boxes(width, dtype, extents)
    start[:, 0, 0] = extents * torch.linspace(0.17, 0.3, 40, dtype=torch.float64)
    moved = start.clone()
    moved[:, 1, 0] += extents * 0.02
    turned = moved.clone()
    turned[:, 0, 1], turned[:, -1, 1] = extents * 0.07, -extents * 0.07
    labels = NativeEngine().bind(x, None).assign(turned, list(range(40))).labels
    assert torch.equal(labels, torch.tensor([0, 15]).repeat(40, 32))
    check_rounds(x, None, [(centers, 1, 1) for centers in (start, start, moved, turned)], list(range(40)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_lists_last_only_while_centers_are_near_the_place_where_they_were_made(width, dtype):
    # Boxes between two far centers, whose border moves into one box after the other while lists last. Each step is a
    # little shorter than the one before, so that the fourth step after new lists ends just inside their slack.
    boxes, generator = 200, seeded(width)
    corner = torch.zeros(boxes, 1, width, dtype=torch.float64)
    corner[:, 0, 0] = torch.arange(boxes) * 60.0
    offsets = torch.rand(boxes, 64, width, generator=generator, dtype=torch.float64) * 2 - 1
    offsets[:, :2] = torch.tensor([1.0, -1.0])[:, None]
    x = (corner + offsets).view(1, -1, width).to(dtype)
    step = torch.zeros(width, dtype=torch.float64)
    step[0] = 0.15 * width**0.5 / 4
    gap = torch.rand(boxes, 1, 1, generator=generator, dtype=torch.float64) * 12 * step
    far = torch.eye(width, dtype=torch.float64)[0] * 20
    centers = torch.cat([corner - far, corner + far + 2 * (far / 20 + gap)], dim=1).view(1, -1, width)
    native, plain, fixed_point = NativeEngine().bind(x, None), PlainEngine().bind(x, None), fixed_point_of(x)
    for turn in range(20):
        at = centers.to(dtype)
        assert_same_moments(native.measure(at, fixed_point, [0]), plain.measure(at, fixed_point, [0]))
        centers = centers - step * 0.98**turn


def test_runs_that_end_leave_the_others_their_state():
    generator = seeded()
    x = torch.rand(3, 500, 2, generator=generator)
    fixed_point = fixed_point_of(x)
    native, plain = SORTED.bind(x, None), PlainEngine().bind(x, None)
    problems, centers = torch.tensor([0, 0, 1, 1, 2]), torch.rand(5, 20, 2, generator=generator)
    for kept in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 3], [3], [3, 2, 3], [0, 4]):
        for _ in range(3):
            centers = centers + torch.randn(centers.shape, generator=generator) * 1e-3
            arguments = centers[kept], fixed_point.select(problems[kept]), problems[kept].tolist()
            assert_same_moments(native.measure(*arguments), plain.measure(*arguments))


def test_no_bit_depends_on_calls_with_other_sizes_or_dtypes():
    x = torch.rand(1, 300, 3, generator=seeded())
    native, plain = SORTED.bind(x, None), PlainEngine().bind(x, None)
    fixed_point = fixed_point_of(x)
    for k, dtype in [
        (20, torch.float32),
        (20, torch.float32),
        (30, torch.float32),
        (20, torch.float64),
        (1, torch.float64),
    ]:
        centers = x[:, :k].to(dtype)
        assert_same_moments(native.measure(centers, fixed_point, [0]), plain.measure(centers, fixed_point, [0]))
        for n_centers in (k, 7, 40):
            at = x[:, -n_centers:].to(dtype)
            for found, expected in zip(native.assign(at, [0]), plain.assign(at, [0]), strict=True):
                assert torch.equal(found, expected)


def test_centers_may_be_changed_in_place_between_calls():
    x, centers = torch.rand(1, 500, 3, generator=seeded()), torch.rand(1, 40, 3, generator=seeded(1))
    native, plain, fixed_point = SORTED.bind(x, None), PlainEngine().bind(x, None), fixed_point_of(x)
    for _ in range(4):
        assert_same_moments(native.measure(centers, fixed_point, [0]), plain.measure(centers, fixed_point, [0]))
        centers[0, 3] += 0.25


@pytest.fixture
def small_chunks(monkeypatch):
    """Two threads, also for little work."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(few, "_SHORT_WORK", 0)
    monkeypatch.setattr(few, "_LONGEST_CHUNK", 1e5)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("problems", [[0], [1, 0, 1]])
@pytest.mark.parametrize("engine", [NativeEngine(sorts_from=10**9), SORTED], ids=["as given", "sorted"])
def test_every_round_has_the_same_bits_on_two_threads(small_chunks, engine, problems):
    generator = seeded()
    x = torch.rand(2, 5000, 3, generator=generator)
    start = torch.rand(len(problems), 50, 3, generator=generator)
    weights = torch.rand(2, 5000, generator=generator)
    check_rounds(x, weights, rounds_from(start, 1.0, generator), problems, engine)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_points_that_are_sorted_in_parts_have_the_same_bits(width, monkeypatch):
    monkeypatch.setattr(few, "_LONG_SORT", 300)
    x = torch.rand(2, 1000, width, generator=seeded())
    check_rounds(x, None, rounds_from(x[:, :40], 1.0, seeded(1)), [0, 1])


def test_an_interrupted_call_leaves_no_trace(monkeypatch):
    x, centers = torch.rand(1, 5000, 3, generator=seeded()), torch.rand(1, 40, 3, generator=seeded(1))
    native, plain, fixed_point = SORTED.bind(x, None), PlainEngine().bind(x, None), fixed_point_of(x)
    for turn in range(5):
        centers = centers + 0.01
        if turn > 1:
            with monkeypatch.context() as patch:
                patch.setattr(few, "_LONGEST_CHUNK", 1e5)
                patch.setattr(few, "run_chunks", interrupted_run_chunks)
                with pytest.raises(KeyboardInterrupt):
                    native.measure(centers + 0.1, fixed_point, [0])
        assert_same_moments(native.measure(centers, fixed_point, [0]), plain.measure(centers, fixed_point, [0]))


def interrupted_run_chunks(kernel, n_items, chunk):
    kernel(0, min(chunk, n_items))
    raise KeyboardInterrupt


def test_many_small_problems_are_one_call(monkeypatch):
    calls = []
    kernel = few._kernel
    monkeypatch.setattr(few, "_kernel", lambda name, dtype: calls.append(name) or kernel(name, dtype))
    x = torch.rand(10_000, 5, 3, generator=seeded())
    centers, problems = x[:, :2].clone(), range(10_000)
    native, plain, fixed_point = NativeEngine().bind(x, None), PlainEngine().bind(x, None), fixed_point_of(x)
    for _ in range(2):
        found = native.measure(centers, fixed_point, problems)
    assert calls == ["direct", "direct"]
    assert_same_moments(found, plain.measure(centers, fixed_point, problems))


@pytest.mark.parametrize("n_init", [1, 3])
def test_a_clustering_of_colors_has_the_bits_of_the_plain_engine(china, n_init):
    x, weights = china[::3, ::3].flatten(0, 1).unique(dim=0, return_counts=True)
    native, plain = (
        kmeans(x, 24, weights=weights, n_init=n_init, max_iter=12, engine=engine) for engine in ("native", "plain")
    )
    assert_same_results(native, plain)


def test_a_clustering_of_a_batch_has_the_bits_of_the_plain_engine():
    x = torch.rand(4, 1500, 2, generator=seeded())
    native, plain = (kmeans(x, 12, n_init=2, max_iter=20, engine=engine) for engine in ("native", "plain"))
    assert_same_results(native, plain)
