"""Results of the screened engine beside those of the plain engine."""

from dataclasses import fields

import torch

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.engines.screened.engine import ScreenedEngine
from gpukmeans.points.tensor import tensor_points
from helpers.problems import seeded

# With a GPU kernels are compiled, without one they are interpreted.
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def passes(engine, device, x, centers, weights, problems):
    """Results of `assign` and `measure`, on the CPU."""
    points = tensor_points(x.to(device), None if weights is None else weights.to(device), engine, centers.dtype)
    points, centers = points.select(torch.tensor(problems)), centers.to(device)
    nearest, moments = points.assign(centers), points.measure(centers, points.sqdist_bound(centers))
    found = {field.name: getattr(moments, field.name) for field in fields(moments) if field.name != "fixed_point"}
    found |= {name: getattr(nearest, name) for name in ("labels", "sqdist")}
    return {name: value.cpu() for name, value in found.items()}


def assert_same(x, centers, weights=None, problems=None, programs=3):
    """Every bit of all passes is that of the plain engine."""
    problems = list(range(len(x))) if problems is None else problems
    found = passes(ScreenedEngine(DEVICE, programs), DEVICE, x, centers, weights, problems)
    for name, expected in passes(PlainEngine(), "cpu", x, centers, weights, problems).items():
        assert found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name


def n_contested(x, centers):
    """The number of points (N, D) whose nearest of the centers (K, D) is decided by exact distances."""
    from gpukmeans.engines.screened.launch import ScreenedPoints

    points = ScreenedPoints(x[None].to(DEVICE), None)
    return points.n_contested(centers[None].to(DEVICE), torch.zeros(1, dtype=torch.int64, device=DEVICE)).item()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def levels(n, *shape, seed=0):
    """Multiples of 1/3 below n / 3, so that points tie with several centers."""
    return torch.randint(n, shape, generator=seeded(seed)) / 3
