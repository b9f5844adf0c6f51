import pytest
import torch
from helpers.problems import blobs
from helpers.screened import DEVICE, assert_same, n_contested, normal, passes

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.engines.screened.engine import ScreenedEngine

pytest.importorskip("triton")


class TestTheBound:
    """Inputs for which an approximate distance would give another label, or for which values overflow or underflow."""

    @pytest.mark.parametrize("width", [9, 40])
    def test_points_halfway_between_two_centers(self, width):
        centers = normal(1, 10, width)
        middle = (centers[:, 0::2] + centers[:, 1::2]) / 2
        steps = torch.arange(-6, 7)[:, None, None] * 2.0**-22
        assert_same((middle * (1 + steps)).reshape(1, -1, width), centers)

    @pytest.mark.parametrize("step", [2.0**-23, 2.0**-15, 2.0**-11])
    def test_centers_that_differ_by_less_than_half_precision(self, step):
        center = normal(1, 1, 24)
        centers = center * (1 + step * torch.arange(12)[:, None])
        assert_same(center + normal(1, 80, 24, seed=1) * 0.3, centers)

    @pytest.mark.parametrize("offset", [1e4, -1e8])
    def test_points_far_from_the_origin(self, offset):
        assert_same(normal(1, 70, 20) + offset, normal(1, 9, 20, seed=1) + offset)

    @pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-22, 1e-19, 1e17])
    def test_points_of_any_magnitude(self, scale):
        # The squares of the smallest ones are subnormal or 0, and so are the smallest numbers themselves.
        assert_same(normal(1, 70, 12) * scale, normal(1, 9, 12, seed=1) * scale)

    @pytest.mark.parametrize("far", [1e3, 1e12, 1e18])
    def test_one_point_far_from_all_others(self, far):
        x = normal(1, 70, 12)
        x[0, 7, 3] = far
        centers = normal(1, 9, 12, seed=1)
        assert_same(x, centers)
        centers[0, 4] = x[0, 7]
        assert_same(x, centers)

    @pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4])
    def test_centers_on_another_scale_than_the_points(self, scale):
        assert_same(normal(1, 70, 12), normal(1, 9, 12, seed=1) * scale)
        assert_same(normal(1, 70, 12) * scale + 3, normal(1, 9, 12, seed=1) + 3)

    def test_equal_centers_give_the_first_of_them(self):
        centers = normal(1, 5, 12, seed=1).repeat(1, 3, 1)
        x = normal(1, 70, 12)
        assert_same(x, centers)
        assert passes(ScreenedEngine(DEVICE), DEVICE, x, centers, None, [0])["labels"].max() < 5

    def test_constant_coordinates(self):
        x, centers = normal(1, 70, 12), normal(1, 9, 12, seed=1)
        x[..., 3:], centers[..., 3:] = 7.7, 7.7
        assert_same(x, centers)

    def test_equal_points(self):
        assert_same(torch.full((1, 70, 12), 0.1), torch.full((1, 3, 12), 0.1))
        assert_same(torch.full((1, 70, 12), 0.1), normal(1, 3, 12))

    def test_distances_that_overflow(self):
        x, centers = normal(1, 70, 12) * 1e20, normal(1, 9, 12) * 1e20
        labels, sqdist = ScreenedEngine(DEVICE).bind(x.to(DEVICE), None).assign(centers.to(DEVICE), [0])
        expected = PlainEngine().bind(x, None).assign(centers, [0])
        assert torch.isinf(expected.sqdist).any()
        assert torch.equal(labels.cpu(), expected.labels)
        assert torch.equal(sqdist.cpu(), expected.sqdist)

    def test_few_points_are_contested(self):
        x = normal(500, 40)
        assert n_contested(x, x[:70]) < 10
        # A far center loosens the bound of its tile only, and a far point none.
        far = torch.cat([x, x[:1] * 1e3])
        assert n_contested(far, torch.cat([x[:64], far[-1:]])) < 50

    def test_points_that_are_nearest_to_two_equal_centers_are_contested(self):
        x = blobs(100, 40)
        assert n_contested(x, x[:4].repeat(2, 1)) == 100
