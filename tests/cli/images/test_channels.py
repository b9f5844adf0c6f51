import numpy as np
import pytest
import torch

from gpukmeans.images.histogram import unique_colors
from gpukmeans_cli.images.channels import add_histograms, common_channels, to_rgb, with_channels

COLORS = {
    1: [[7]],
    2: [[7, 90]],
    3: [[7, 7, 7]],
    4: [[7, 7, 7, 90]],
}
WIDER = {(1, 1): 1, (1, 2): 2, (1, 3): 3, (1, 4): 4, (2, 2): 2, (2, 3): 4, (2, 4): 4, (3, 3): 3, (3, 4): 4, (4, 4): 4}


@pytest.mark.parametrize(("one", "other"), [*WIDER, *((b, a) for a, b in WIDER)])
def test_common_channels_hold_the_color_and_alpha_of_both(one, other):
    assert common_channels(one, other) == WIDER[min(one, other), max(one, other)]


@pytest.mark.parametrize(("before", "after"), list(WIDER))
def test_more_channels_keep_the_color(before, after):
    after = common_channels(before, after)
    is_opaque = before in (1, 3)
    expected = torch.tensor(COLORS[after])
    if is_opaque and after in (2, 4):
        expected[..., -1] = 255
    assert torch.equal(with_channels(torch.tensor(COLORS[before]), after), expected)


def test_leading_dimensions_are_kept():
    assert with_channels(torch.zeros(2, 3, 4, 1, dtype=torch.uint8), 4).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("second", [1, 2, 3, 4])
def test_the_sum_of_histograms_of_any_channels_is_that_of_both_images(first, second):
    generator = np.random.default_rng(0)
    one, other = (
        generator.integers(0, 4, (*size, n), dtype=np.uint8) for size, n in (((4, 5), first), ((3, 5), second))
    )
    color, alpha = {first, second} & {3, 4}, {first, second} & {2, 4}

    def widened(pixels):
        values = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
        parts = [np.repeat(values, 3, axis=2) if color and values.shape[2] == 1 else values]
        if alpha:
            parts.append(pixels[..., -1:] if pixels.shape[2] in (2, 4) else np.full_like(pixels[..., :1], 255))
        return np.concatenate(parts, axis=2)

    total = add_histograms(unique_colors(torch.from_numpy(one)), unique_colors(torch.from_numpy(other)))
    expected = unique_colors(torch.from_numpy(np.concatenate([widened(one), widened(other)])))
    assert torch.equal(total.colors, expected.colors)
    assert torch.equal(total.counts, expected.counts)


@pytest.mark.parametrize(("color", "expected"), [([7], [7, 7, 7]), ([7, 9], [7, 7, 7, 9]), ([1, 2, 3], [1, 2, 3])])
def test_grey_becomes_rgb_and_alpha_is_kept(color, expected):
    assert to_rgb(torch.tensor([color], dtype=torch.uint8)).tolist() == [expected]
