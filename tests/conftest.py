"""Shapes and dtypes are checked while tests run: the annotations of the package become assertions."""

import os

# Tests that run beside other work should not wait for each other by spinning; see gpukmeans_cli.system.startup.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest
import torch
from helpers import type_checks

# Without a GPU, kernels are interpreted: to be said before the first import of triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

type_checks.install("gpukmeans", "beartype.beartype")

# Some inputs are the first to start the threads of torch, so no test is judged by its time. On CI a failure should say
# something of the change and not of the dice.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def unchecked():
    """As users run the package: a wrong argument gets as far as the error meant for it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def china():
    """The photo of scikit-learn, 427 x 640 x 3."""
    return _sample_image(0)


@pytest.fixture(scope="session")
def flower():
    """The other photo of scikit-learn."""
    return _sample_image(1)


def _sample_image(index):
    from sklearn.datasets import load_sample_images

    return torch.from_numpy(load_sample_images().images[index].copy())
