from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_points import points_of, seeded

from gpukmeans.seeding import SEEDINGS, kmeans_plus_plus, random


@pytest.mark.parametrize("name", SEEDINGS)
class TestEverySeeding:
    @given(st.integers(1, 12), st.integers(0, 2**31))
    def test_centers_are_points_and_differ(self, name, k, seed):
        x = torch.randint(0, 4, (60, 2), generator=seeded(seed)).float()
        rows = {tuple(row) for row in x.tolist()}
        centers = SEEDINGS[name](points_of(x), min(k, len(rows)), seeded(seed))
        chosen = [tuple(row) for row in centers.tolist()]
        assert set(chosen) <= rows
        assert len(set(chosen)) == len(chosen) == min(k, len(rows))

    def test_as_many_centers_as_points_are_all_of_them(self, name):
        x = torch.arange(30.0).reshape(10, 3)
        assert sorted(SEEDINGS[name](points_of(x), 10, seeded()).tolist()) == x.tolist()

    def test_fewer_distinct_points_are_all_chosen_and_then_repeated(self, name):
        x = torch.tensor([[1.0], [2.0], [2.0], [1.0], [3.0]])
        centers = SEEDINGS[name](points_of(x), 5, seeded()).squeeze(1).tolist()
        assert len(centers) == 5
        assert set(centers[:3]) == {1, 2, 3} == set(centers)

    def test_the_same_generator_gives_the_same_centers_and_another_one_others(self, name, china):
        points = points_of(china.reshape(-1, 3)[::100])
        first, again, other = (SEEDINGS[name](points, 8, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_weight_of_two_is_a_point_twice(self, name):
        x = torch.randn(20, 3, generator=seeded())
        weights = torch.randint(1, 4, (20,), generator=seeded())
        once = SEEDINGS[name](points_of(x, weights), 6, seeded(5))
        repeated = SEEDINGS[name](points_of(x.repeat_interleave(weights, dim=0)), 6, seeded(5))
        assert torch.equal(once, repeated)

    def test_the_global_random_state_is_neither_read_nor_written(self, name):
        points = points_of(torch.randn(50, 2, generator=seeded()))
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = SEEDINGS[name](points, 5, seeded())
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(SEEDINGS[name](points, 5, seeded()), first)

    def test_nearly_all_weight_on_one_point_does_not_hide_the_others(self, name):
        x = torch.tensor([[0.0], [1.0], [2.0]])
        centers = SEEDINGS[name](points_of(x, torch.tensor([2**50, 1, 1])), 3, seeded())
        assert sorted(centers.squeeze(1).tolist()) == [0, 1, 2]


def test_random_pairs_come_with_the_odds_of_drawing_one_after_the_other():
    points = points_of(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([2, 1, 1]))
    n = 3000
    pairs = Counter(tuple(random(points, 2, seeded(seed)).squeeze(1).tolist()) for seed in range(n))
    expected = {(0, 1): 1 / 4, (0, 2): 1 / 4, (1, 0): 1 / 6, (1, 2): 1 / 12, (2, 0): 1 / 6, (2, 1): 1 / 12}
    assert set(pairs) == set(expected)
    # Chi-squared with 5 degrees of freedom is below 20.5 in 999 of 1000 cases.
    assert sum((pairs[pair] - n * odds) ** 2 / (n * odds) for pair, odds in expected.items()) < 20.5


def test_the_second_center_is_drawn_by_squared_distance(monkeypatch):
    # One candidate at a time, so that the odds can be written down: 1 : 16 from 0, by distance it would be 1 : 4.
    monkeypatch.setattr("gpukmeans.seeding._n_candidates", lambda n_clusters: 1)
    points = points_of(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([2**40, 1, 1]))
    n = 3000
    second = Counter(kmeans_plus_plus(points, 2, seeded(seed))[1].item() for seed in range(n))
    assert set(second) == {1, 4}
    assert abs(second[1] - n / 17) < 4 * (n * 16 / 17**2) ** 0.5


def test_of_the_candidates_the_one_of_lowest_inertia_is_taken():
    # From 0, the lone point at 10 is the likeliest to be drawn, but the crowd at 8 leaves less inertia.
    x = torch.cat([torch.zeros(1, 1), torch.full((1, 1), 10.0), torch.full((5, 1), 8.0)])
    points = points_of(x, torch.tensor([2**40, 4, 1, 1, 1, 1, 1]))
    greedy = Counter(kmeans_plus_plus(points, 2, seeded(seed))[1].item() for seed in range(300))
    # Inertia 4·(10-8)² = 16 with a center at 8, 5·4 = 20 with one at 10; odds of 320 : 400 by one draw, two are made.
    assert greedy[8.0] > 170  # 207 are expected, 133 of one draw


def test_a_greedy_start_is_better_than_a_random_one(china):
    points = points_of(china.reshape(-1, 3)[::10])
    inertia = {
        name: sum(points.sqdist(SEEDINGS[name](points, 20, seeded(seed))).sum().item() for seed in range(5))
        for name in SEEDINGS
    }
    assert inertia["k-means++"] < 0.9 * inertia["random"]
