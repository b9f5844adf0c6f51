import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.fixed_point import to_fixed

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("gpukmeans.engines.fused.kernels")
tl = triton.language

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


@triton.jit
def to_fixed_kernel(out, terms, n: tl.constexpr):
    positions = tl.arange(0, n)
    tl.store(out + positions, kernels._to_fixed(tl.load(terms + positions)))


def test_terms_are_rounded_to_even_at_every_magnitude():
    exponents = torch.arange(-3, 61, dtype=torch.float64)
    terms = torch.cat([2**exponents, 2**exponents + 0.5, 2**exponents - 0.5, 2**exponents + 1.5, 2**exponents / 3])
    terms = torch.cat([terms, -terms, torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 2**52 - 0.5, 2**51 + 0.5])])
    terms = torch.nn.functional.pad(terms, (0, 1024 - len(terms)), value=2.0**51 + 1.5)
    (terms,) = on_device(terms)
    out = torch.empty(1024, dtype=torch.int64, device=DEVICE)
    to_fixed_kernel[(1,)](out, terms, 1024, enable_fp_fusion=False)
    assert torch.equal(out, to_fixed(terms, torch.ones((), dtype=torch.float64, device=DEVICE)))


@triton.jit
def list_kernel(candidates, counts, x, centers, n, k, width: tl.constexpr, block: tl.constexpr, tile: tl.constexpr):
    positions = tl.arange(0, block)
    points = kernels._load(x, n, positions, positions < n, centers.dtype.element_ty, width)
    lowest, highest = kernels._box(points, positions < n, width)
    tl.store(counts, kernels._list_candidates(candidates, centers, k, lowest, highest, width, tile))


def candidates_of(x, centers):
    """The candidate list of points (N, D)."""
    x, centers = on_device(x, centers)
    candidates = torch.full((len(centers),), -1, dtype=torch.int32, device=DEVICE)
    count = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    shape = {"width": x.shape[1], "block": 64, "tile": 32, "enable_fp_fusion": False}
    list_kernel[(1,)](candidates, count, x.T.contiguous(), centers, len(x), len(centers), **shape)
    return candidates[: count.item()].tolist()


class TestLists:
    def test_the_list_of_two_points_has_the_centers_worked_out_by_hand(self):
        # No point from 0 to 1 is farther than 2 from the center at 2; only centers that may be as near are listed.
        x = torch.tensor([[0.0], [1.0]])
        assert candidates_of(x, torch.tensor([[2.0], [3.5], [-2.0], [-2.1], [3.0], [2.0]])) == [0, 2, 4, 5]

    def test_the_list_of_one_point_has_its_nearest_centers_with_ties(self):
        assert candidates_of(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 2.0], [5.0, 5.0], [0.0, 1.0]])) == [0, 2]

    def test_masked_rows_do_not_widen_the_box(self):
        # If a masked row counted as 0, 0.5 would be listed.
        assert candidates_of(torch.tensor([[100.0], [101.0]]), torch.tensor([[0.5], [100.0]])) == [1]

    @pytest.mark.parametrize("side", [0.02, 0.3, 1.0])
    @pytest.mark.parametrize("k", [5, 32, 33, 100])
    def test_the_list_has_all_nearest_centers_and_is_ascending(self, side, k):
        x = torch.rand(60, 3, generator=seeded()) * side + 1e3
        centers = torch.rand(k, 3, generator=seeded(1)) + 1e3
        labels, _ = PlainEngine().bind(x[None], None).assign(centers[None], [0])
        found = candidates_of(x, centers)
        assert set(labels.flatten().tolist()) <= set(found)
        assert found == sorted(set(found))

    def test_a_small_box_has_a_short_list(self):
        x = torch.rand(60, 3, generator=seeded()) * 0.02 + 0.5
        assert 1 <= len(candidates_of(x, torch.rand(300, 3, generator=seeded(1)))) < 20
