import contextlib
from dataclasses import fields

import pytest
import torch
from helpers.cuda_devices import CUDA_DEVICES, cuda_device
from helpers.problems import blobs, seeded
from helpers.screened import assert_same, levels

from gpukmeans import kmeans
from gpukmeans.engines.screened.engine import ScreenedEngine
from gpukmeans.points.tensor import tensor_points

pytest.importorskip("triton")


@pytest.mark.parametrize("programs", [1, 20])
def test_no_bit_depends_on_the_number_of_programs(programs):
    assert_same(levels(2, 1, 100, 12), levels(2, 1, 150, 12, seed=1), programs=programs)


@contextlib.contextmanager
def _no_waiting(log):
    """Raises an error if the host waits for the device of this log, or for the real one without a log."""
    if log is not None:
        log.clear()
        yield
        assert log.syncs == 0, str(log)
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestOnTheDevice:
    @pytest.mark.parametrize("kind", CUDA_DEVICES)
    def test_auto_uses_the_engine_and_has_the_bits_of_the_cpu(self, kind):
        x = blobs(100, 12)
        expected = kmeans(x, 4, init=x[:4], max_iter=4)
        with cuda_device(kind) as log:
            found = kmeans(x.to("cuda"), 4, init=x[:4].to("cuda"), max_iter=4)
            assert log is None or log.launches_of["screen_kernel"] > 0
            for field in fields(expected):
                assert torch.equal(getattr(found, field.name).cpu(), getattr(expected, field.name)), field.name

    @pytest.mark.parametrize("kind", CUDA_DEVICES)
    def test_only_the_first_pass_waits_for_the_device(self, kind):
        x = blobs(100, 12)
        with cuda_device(kind) as log:
            points = tensor_points(x[None].to("cuda"), None, ScreenedEngine(), torch.float32)
            centers, fixed_point = x[None, :4].to("cuda"), points.fixed_point
            bound = ScreenedEngine().bind(x[None].to("cuda"), None)
            bound.measure(centers, fixed_point, [0])
            with _no_waiting(log):
                bound.measure(centers, fixed_point, [0])


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("kind", CUDA_DEVICES[:1])
def test_a_round_takes_few_launches_and_several_rounds_one_wait(kind, n):
    x = torch.rand(n, 12, generator=seeded())
    with cuda_device(kind) as log:
        costs = []
        for max_iter in (1, 3):  # the loop checks after 1, 3, 7 and 15 rounds, and then after every 8
            log.clear()
            fit = kmeans(x.cuda(), 9, init=x[:9].cuda(), tol=0, max_iter=max_iter)
            assert fit.n_iter == max_iter
            costs.append((log.launches, log.syncs))
        (few, few_syncs), (many, many_syncs) = costs
        assert many - few <= 2 * 24, str(log)
        assert many_syncs - few_syncs <= 1, str(log)
