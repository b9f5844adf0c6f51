from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpukmeans_cli.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    chart_inertia,
    chart_sizes,
    short_number,
    ticks_between,
)

NUMBERS = st.floats(-1e9, 1e9).map(lambda value: round(value, 3))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (21.5, 36.6, [20, 25, 30, 35, 40]),
        (0, 1, [0, 0.5, 1]),
        (1, 16, [0, 5, 10, 15, 20]),
        (51.9e6, 52.35e6, [51.8e6, 52e6, 52.2e6, 52.4e6]),
        (7, 7, [6, 6.5, 7, 7.5, 8]),
    ],
)
def test_ticks_are_round_numbers_and_enclose_the_values(low, high, ticks):
    assert ticks_between(low, high, 4) == ticks


@given(NUMBERS, NUMBERS)
@example(0.001, 0.0011)
@example(-5, -5)
def test_ticks_are_evenly_spaced_and_enclose_all_values(one, other):
    low, high = min(one, other), max(one, other)
    ticks = ticks_between(low, high, 4)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(ticks))


def test_the_size_axis_is_logarithmic_and_the_quality_axis_goes_up():
    chart = chart_sizes([10_000, 20_000, 40_000], [20.0, 25.0, 40.0])
    first, second, third = chart.points
    assert second.x - first.x == pytest.approx(third.x - second.x, abs=0.2)
    assert LEFT < first.x < third.x < RIGHT
    assert (first.y, third.y) == (BOTTOM, TOP)
    assert [tick.text for tick in chart.y_ticks] == ["20", "25", "30", "35", "40"]
    assert [(tick.text, tick.position) for tick in chart.x_ticks] == [("10 kB", first.x), ("20 kB", second.x)]
    assert chart.path == f"M{first.x:g} {first.y:g}L{second.x:g} {second.y:g}L{third.x:g} {third.y:g}"


def test_the_quality_axis_ends_at_100():
    assert [tick.text for tick in chart_sizes([10, 20], [62.0, 100.0]).y_ticks][-1] == "100"
    alone = chart_sizes([900], [100.0])
    assert (alone.points[0].y, alone.y_ticks[-1].text) == (TOP, "100")
    assert alone.points[0].x == (LEFT + RIGHT) / 2


def test_a_limit_is_marked_only_between_the_sizes_of_the_points():
    sizes, qualities = [10_000, 40_000], [20.0, 25.0]
    chart = chart_sizes(sizes, qualities, 20_000)
    assert chart.limit == pytest.approx((chart.points[0].x + chart.points[1].x) / 2, abs=0.1)
    assert chart_sizes(sizes, qualities, 40_000).limit == chart.points[1].x
    assert [chart_sizes(sizes, qualities, limit).limit for limit in (None, 9_999, 40_001)] == [None] * 3


@given(st.lists(st.tuples(st.integers(60, 10**9), st.floats(0, 100)), min_size=1, max_size=20))
def test_all_points_and_ticks_are_in_the_chart_and_at_most_six_sizes_have_labels(pairs):
    sizes, qualities = [size for size, _ in pairs], [quality for _, quality in pairs]
    chart = chart_sizes(sizes, qualities)
    assert 1 <= len(chart.x_ticks) <= 6
    assert all(LEFT <= point.x <= RIGHT and TOP <= point.y <= BOTTOM for point in chart.points)
    assert all(LEFT <= tick.position <= RIGHT for tick in chart.x_ticks)
    assert all(TOP <= tick.position <= BOTTOM for tick in chart.y_ticks)


def test_inertia_falls_from_the_first_iteration_to_the_last_on_an_axis_from_0():
    chart = chart_inertia([5e6, 4.2e6, 4e6])
    assert [point.x for point in chart.points] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert [point.y for point in chart.points] == sorted(point.y for point in chart.points)
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "2M", "4M", "6M"]
    assert chart.points[2].y == pytest.approx(BOTTOM - (BOTTOM - TOP) * 4 / 6, abs=0.1)


def test_iteration_labels_are_integers_from_1():
    for n in (1, 2, 7, 100):
        ticks = [tick.text for tick in chart_inertia([float(n - i) for i in range(n)]).x_ticks]
        assert ticks[0] == "1"
        assert all(text.isdigit() and int(text) <= n for text in ticks)


def test_one_iteration_is_in_the_middle_and_equal_values_are_level():
    (point,) = chart_inertia([0.0]).points
    assert point.x == (LEFT + RIGHT) / 2
    assert point.y == BOTTOM
    assert len({point.y for point in chart_inertia([3.0, 3.0]).points}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (1500, "1.5k"), (52.4e6, "52.4M"), (2e9, "2G"), (1e13, "10T"), (0.25, "0.25")],
)
def test_large_numbers_have_metric_prefixes(value, text):
    assert short_number(value) == text
