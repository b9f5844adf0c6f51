import pytest
import torch

from gpukmeans_cli.files import ImageError
from gpukmeans_cli.memory import within_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "cpu is out of memory; use --device cpu"),
        (MemoryError(), "out of memory; use a smaller picture"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "use a smaller picture"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "use a smaller picture"),
    ],
)
def test_memory_that_runs_out_is_one_sentence(error, advice):
    with pytest.raises(ImageError, match=advice), within_memory(CPU):
        raise error


def test_the_advice_may_be_another():
    with pytest.raises(ImageError, match=r"^out of memory; buy some$"), within_memory(CPU, "buy some"):
        raise MemoryError


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes differ"), within_memory(CPU):
        raise RuntimeError("shapes differ")
