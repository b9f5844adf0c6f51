import pytest
import torch
from helpers.problems import points_of, seeded

from gpukmeans.engines.fused import merging
from gpukmeans.lloyd import measure_at
from gpukmeans.refinement import merge

pytest.importorskip("triton")


def merged_on(device, points, n_clusters, n_fixed, weights=None):
    """The centers after merges, of clusters whose centers are these points (B, M, D) with these weights."""
    x = points.to(device)
    moments = measure_at(points_of(x, None if weights is None else weights.to(device)), x)
    if device == "cpu":
        return merge(x.double(), moments.cluster_weights(), n_clusters, n_fixed).float()
    return merging.merged(x, moments, n_clusters, n_fixed).cpu()


@pytest.mark.parametrize("block", [16, 256])
@pytest.mark.parametrize(("n_fixed", "n_clusters", "width"), [(0, 9, 3), (3, 5, 1), (0, 1, 2), (2, 20, 4), (0, 21, 3)])
def test_the_kernel_has_the_bits_of_the_operations_of_torch(cuda, monkeypatch, block, n_fixed, n_clusters, width):
    monkeypatch.setattr(merging, "_BLOCK", block)
    generator = seeded(3)
    points = torch.randn(2, 21, width, generator=generator) ** 3
    weights = torch.rand(2, 21, generator=generator).mul(5).round()  # some are 0
    arguments = points, n_clusters, n_fixed, weights
    assert torch.equal(merged_on(cuda, *arguments), merged_on("cpu", *arguments))


@pytest.mark.parametrize("n_fixed", [0, 2])
def test_equal_costs_merge_the_pairs_of_the_lowest_indices_as_on_a_cpu(cuda, n_fixed):
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))[None]
    line = torch.arange(16.0)[None, :, None].expand(1, 16, 2)
    points = torch.cat([grid, line.contiguous()])
    for n_clusters in (3, 11):
        arguments = points, n_clusters, n_fixed
        assert torch.equal(merged_on(cuda, *arguments), merged_on("cpu", *arguments))


def test_centers_whose_costs_could_overflow_are_not_merged_by_the_kernel(cuda):
    centers, weight = torch.zeros(1, 4, 3, device=cuda), torch.tensor([7.0], dtype=torch.float64)
    assert merging.supports(centers, weight)
    assert not merging.supports(centers, weight * 1e250)
    assert not merging.supports(centers.double(), weight)
    assert not merging.supports(torch.zeros(1, 4, 9, device=cuda), weight)
    assert not merging.supports(centers.cpu(), weight)
