"""The machine code of the kernels of the package for an H200. No GPU is needed."""

import pytest
from helpers import compiled_kernels, pretended_cuda

pytest.importorskip("triton")

HOPPER = 90


@pytest.fixture(scope="module")
def variants():
    """The variants of kernels that are launched on the pretended device."""
    if reason := pretended_cuda.unsupported_reason():
        pytest.skip(reason)
    return compiled_kernels.recorded()


@pytest.fixture(scope="module")
def resources(variants, tmp_path_factory):
    """The resources of each variant, by its description."""
    found = compiled_kernels.compiled(variants, HOPPER, tmp_path_factory.mktemp("triton"))
    return dict(zip(map(str, variants), found, strict=True))


def test_every_kernel_is_launched(variants):
    assert {variant.name for variant in variants} == compiled_kernels.kernel_names()


def test_descriptions_of_variants_differ(variants):
    assert len(set(map(str, variants))) == len(variants)


def test_no_kernel_spills_registers(resources):
    assert all(0 < found.registers <= 255 for found in resources.values())
    # ptxas may spill two registers to fit one more warp.
    assert {name: found.stack for name, found in resources.items() if found.stack > 8} == {}


def test_no_kernel_fuses_a_multiplication_with_an_addition_or_replaces_denormal_numbers(resources):
    # The bound of the engine "screened" covers both in these kernels.
    screens = ("screen_kernel", "points_kernel", "centers_kernel")
    inexact = {name for name, found in resources.items() if found.n_inexact and not name.startswith(screens)}
    assert inexact == set()


def test_a_candidate_list_is_written_and_read_on_either_side_of_a_barrier(resources):
    passes = {name: found for name, found in resources.items() if name.startswith(("assign_kernel", "measure_kernel"))}
    assert passes
    assert {name for name, found in passes.items() if not found.orders_list} == set()
