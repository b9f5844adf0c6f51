import numpy as np
import pytest

from gpukmeans_cli.formats.composition import FramePart, compose


def part(top, left, height, width, color, *, blend="source", disposal="keep", duration=0.0):
    pixels = np.full((height, width, 4), color, dtype=np.uint8)
    return FramePart(top=top, left=left, pixels=pixels, blend=blend, disposal=disposal, duration=duration)


def composed(*parts, height=1, width=3):
    return [canvas.tolist() for canvas, _ in compose(parts, height, width)]


EMPTY, RED, BLUE, GLASS = [0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 255, 255], [0, 255, 0, 128]


def test_the_canvas_is_transparent_outside_the_first_part():
    assert composed(part(0, 1, 1, 1, RED)) == [[[EMPTY, RED, EMPTY]]]


@pytest.mark.parametrize(
    ("disposal", "after"),
    [("keep", [RED, BLUE, BLUE]), ("clear", [RED, EMPTY, EMPTY]), ("restore", [RED, RED, EMPTY])],
)
@pytest.mark.parametrize("blend", ["source", "over"])
def test_a_part_is_disposed_of_before_the_next_frame(blend, disposal, after):
    below, nothing = part(0, 0, 1, 2, RED), part(0, 0, 1, 0, RED)
    frames = composed(below, part(0, 1, 1, 2, BLUE, blend=blend, disposal=disposal), nothing)
    assert frames == [[[RED, RED, EMPTY]], [[RED, BLUE, BLUE]], [after]]


@pytest.mark.parametrize("disposal", ["clear", "restore"])
def test_a_first_part_that_is_disposed_of_leaves_transparency(disposal):
    assert composed(part(0, 0, 1, 3, RED, disposal=disposal), part(0, 0, 1, 1, BLUE))[1] == [[BLUE, EMPTY, EMPTY]]


def test_a_transparent_part_over_the_canvas_shows_it_and_replaces_it_as_source():
    below = part(0, 0, 1, 3, RED)
    assert composed(below, part(0, 0, 1, 3, [1, 2, 3, 0], blend="over"))[1] == [[RED] * 3]
    assert composed(below, part(0, 0, 1, 3, EMPTY))[1] == [[EMPTY] * 3]


@pytest.mark.parametrize(
    ("below", "expected"),
    [(EMPTY, GLASS), (RED, [127, 128, 0, 255]), ([255, 0, 0, 128], [85, 170, 0, 192])],
)
def test_a_translucent_part_over_the_canvas_weighs_both_alphas(below, expected):
    assert composed(part(0, 0, 1, 3, below), part(0, 0, 1, 3, GLASS, blend="over"))[1] == [[expected] * 3]


@pytest.mark.parametrize("disposal", ["keep", "clear", "restore"])
def test_what_lies_outside_the_canvas_is_cut_off(disposal):
    parts = part(0, 2, 9, 9, RED, disposal=disposal), part(5, 5, 1, 1, BLUE), part(0, 0, 1, 1, BLUE)
    frames = composed(*parts)
    assert [len(frames), frames[0]] == [3, [[EMPTY, EMPTY, RED]]]
    assert frames[2] == [[BLUE, EMPTY, RED if disposal == "keep" else EMPTY]]


def test_durations_are_those_of_the_parts():
    parts = [part(0, 0, 1, 1, RED, duration=duration) for duration in (30.0, 0.0, 7.5)]
    assert [duration for _, duration in compose(parts, 1, 1)] == [30.0, 0.0, 7.5]
