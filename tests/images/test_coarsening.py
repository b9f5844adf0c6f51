import torch

from gpukmeans.images.coarsening import coarse
from gpukmeans.images.colorspace import COLOR_SPACES
from gpukmeans.images.histogram import unique_colors


def test_colors_in_the_same_step_of_all_channels_become_their_mean():
    colors = torch.tensor([[0, 8], [7, 15], [8, 8], [255, 255]], dtype=torch.uint8).repeat_interleave(2, dim=0)
    found = coarse(colors, colors.float(), torch.tensor([1, 0, 2, 1, 1, 1, 3, 4]), 0)
    assert found.x.tolist() == [[5.25, 13.25], [8, 8], [255, 255]]
    assert found.weights.tolist() == [4, 2, 7]


def test_the_steps_are_as_few_as_leave_enough_means(china):
    histogram = unique_colors(china)
    x = COLOR_SPACES["srgb"].encode(histogram.colors)
    sizes = [len(coarse(histogram.colors, x, histogram.counts, n).x) for n in (4, 256, 512, 2000)]
    assert sizes[0] == sizes[1] == len(torch.unique(histogram.colors >> 3, dim=0))
    assert sizes[1] < 12 * 512 <= sizes[2] < 12 * 2000 <= sizes[3] == len(torch.unique(histogram.colors >> 2, dim=0))


def test_means_have_the_weight_and_the_sum_of_all_colors(china):
    histogram = unique_colors(china)
    x = COLOR_SPACES["srgb"].encode(histogram.colors)
    found = coarse(histogram.colors, x, histogram.counts, 16)
    assert found.weights.sum() == china[..., 0].numel()
    expected = china.flatten(0, 1).double().mean(dim=0)
    torch.testing.assert_close((found.x.T.double() * found.weights).sum(dim=1) / found.weights.sum(), expected)


def test_few_colors_and_colors_far_apart_stay_what_they_are():
    colors = torch.cartesian_prod(*[torch.arange(0, 256, 16)] * 3).to(torch.uint8)
    counts = torch.ones(len(colors), dtype=torch.int64)
    assert coarse(colors, colors.float(), counts, 4) is None
    assert coarse(colors[:2], colors[:2].float(), counts[:2], 1) is None
