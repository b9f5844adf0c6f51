import pytest


@pytest.fixture(autouse=True)
def _no_gpu(no_gpu):
    """Every test runs on the CPU."""
