"""Fixtures and settings of all tests. Annotations of the package are checked at run time, with shapes and dtypes."""

import os

# Idle threads of concurrent test processes must not keep cores busy; see gpukmeans_cli.system.startup.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per process, because processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest
import torch
from helpers import type_checks

# Without a GPU, Triton interprets kernels. The variable must be set before the first import of triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

type_checks.install("gpukmeans", "beartype.beartype")

# A plugin and not an import, because it imports the package, whose annotations must be checked.
pytest_plugins = ["helpers.cuda_devices"]

# No deadline, because the first example also starts the threads of torch. On CI the examples are the same in each run,
# so that a failure comes from the change and not from chance.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def unchecked():
    """Turns off the checks of annotations, so that a wrong argument reaches the error raised by the package."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def china():
    """A sample photo of scikit-learn, 427 x 640 x 3."""
    return _sample_image(0)


@pytest.fixture(scope="session")
def flower():
    """The other sample photo of scikit-learn, of the same size."""
    return _sample_image(1)


def _sample_image(index):
    from sklearn.datasets import load_sample_images

    return torch.from_numpy(load_sample_images().images[index].copy())
