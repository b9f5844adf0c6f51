import torch

from gpukmeans.images.coarsening import merge_similar_colors
from gpukmeans.images.colorspace import COLOR_SPACES
from gpukmeans.images.histogram import unique_colors


def test_colors_in_the_same_bin_become_their_mean():
    colors = torch.tensor([[0, 8], [7, 15], [8, 8], [255, 255]], dtype=torch.uint8).repeat_interleave(2, dim=0)
    means = merge_similar_colors(colors, colors.float(), torch.tensor([1, 0, 2, 1, 1, 1, 3, 4]), 0)
    assert means.x.tolist() == [[5.25, 13.25], [8, 8], [255, 255]]
    assert means.weights.tolist() == [4, 2, 7]


def test_bins_are_the_widest_that_leave_enough_means(china):
    histogram = unique_colors(china)
    x = COLOR_SPACES["srgb"].encode(histogram.colors)
    sizes = [
        len(merge_similar_colors(histogram.colors, x, histogram.counts, n_colors).x) for n_colors in (4, 256, 512, 2000)
    ]
    assert sizes[0] == sizes[1] == len(torch.unique(histogram.colors >> 3, dim=0))
    assert sizes[1] < 12 * 512 <= sizes[2] < 12 * 2000 <= sizes[3] == len(torch.unique(histogram.colors >> 2, dim=0))


def test_means_keep_the_total_weight_and_the_mean_of_all_colors(china):
    histogram = unique_colors(china)
    x = COLOR_SPACES["srgb"].encode(histogram.colors)
    means = merge_similar_colors(histogram.colors, x, histogram.counts, 16)
    assert means.weights.sum() == china[..., 0].numel()
    expected = china.flatten(0, 1).double().mean(dim=0)
    torch.testing.assert_close((means.x.T.double() * means.weights).sum(dim=1) / means.weights.sum(), expected)


def test_few_colors_and_colors_far_apart_are_not_merged():
    colors = torch.cartesian_prod(*[torch.arange(0, 256, 16)] * 3).to(torch.uint8)
    counts = torch.ones(len(colors), dtype=torch.int64)
    assert merge_similar_colors(colors, colors.float(), counts, 4) is None
    assert merge_similar_colors(colors[:2], colors[:2].float(), counts[:2], 1) is None
