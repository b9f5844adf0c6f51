"""Ceilings of kernel launches and host synchronizations on a CUDA device, counted on the pretended one."""

import pytest
import torch
from helpers.cuda_devices import CUDA_DEVICES, cuda_device
from helpers.problems import blobs, random_image, seeded

from gpukmeans import DITHERINGS, apply_palette, kmeans, quantize
from gpukmeans.points.tensor import tensor_points
from gpukmeans.engines import ENGINES
from gpukmeans.seeding import kmeans_plus_plus

pytest.importorskip("triton")


@pytest.fixture
def log():
    (pretended,) = (device for device in CUDA_DEVICES if device.values == ("pretended",))
    if pretended.marks[0].args[0]:
        pytest.skip(pretended.marks[0].kwargs["reason"])
    with cuda_device("pretended") as log:
        yield log


def counted(log, function, *args, **options):
    """The numbers of launches and synchronizations of a call."""
    log.clear()
    function(*args, **options)
    return log.launches, log.syncs


def per_unit(log, function, few, many):
    """Launches and synchronizations of one of the units, of which a call has `few` or `many`."""
    function(few)  # the first call also makes what later calls use again
    costs = [counted(log, function, n) for n in (few, many)]
    return tuple((more - less) / (many - few) for less, more in zip(*costs, strict=True))


def points_on_device(n, width, seed=0):
    return torch.rand(n, width, generator=seeded(seed)).to("cuda")


@pytest.mark.parametrize("n", [200, 500])
def test_a_round(log, n):
    x = points_on_device(n, 3)

    def run(rounds):
        kmeans(x, 16, init=x[:16], tol=0, max_iter=rounds)
    print(per_unit(log, run, 7, 15))
    assert 0

@pytest.mark.parametrize("n", [200, 500])
def test_center(log, n):
    x = points_on_device(n, 3)
    points = tensor_points(x[None], None, ENGINES["triton"], torch.float32)
    def run(k):
        kmeans_plus_plus(points, k, torch.Generator().manual_seed(0))
    print(per_unit(log, run, 8, 12))
    assert 0

@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("dither", sorted(DITHERINGS))
def test_dither(log, n, dither):
    im = random_image(n, n, 3, 256, 0).cuda()
    palette = im.flatten(0, 1)[:8]
    print(counted(log, apply_palette, im, palette, dither=dither))
    assert 0

@pytest.mark.parametrize("n", [10, 20])
def test_quantize(log, n):
    im = random_image(n, n, 3, 256, 0).cuda()
    print(counted(log, quantize, im, 8))
    assert 0
