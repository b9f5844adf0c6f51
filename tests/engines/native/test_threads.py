"""Chunks run on a kept pool of threads, and none is running any more when an error is raised."""

import _thread
import contextlib
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from helpers import native

from gpukmeans.engines.native.library import load
from gpukmeans.engines.native.threads import run_chunks


@pytest.fixture(params=[2, 4])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Recorder:
    """A kernel that records its ranges and threads. `meet` makes the first chunks wait until all threads have one."""

    def __init__(self, meet=1):
        self.ranges, self.threads, self.running = [], set(), 0
        self._barrier = threading.Barrier(meet)
        self._met = False

    def __call__(self, start, stop):
        self.threads.add(threading.get_ident())
        self.ranges.append((start, stop))
        if not self._met:
            self._barrier.wait(timeout=30)
            self._met = True


@pytest.mark.parametrize(("n_items", "chunk"), [(0, 5), (1, 5), (5, 5), (6, 5), (100, 7), (1000, 1)])
def test_the_ranges_cover_all_items_once(n_threads, n_items, chunk):
    kernel = Recorder()
    run_chunks(kernel, n_items, chunk)
    assert sorted(kernel.ranges) == [(start, min(start + chunk, n_items)) for start in range(0, n_items, chunk)]


def test_chunks_run_on_as_many_threads_as_torch_uses(n_threads):
    for _ in range(3):  # one thread fewer, or a pool that is not kept, would never meet or be another set
        kernel = Recorder(meet=n_threads)
        run_chunks(kernel, 50, 1)
        assert len(kernel.threads) == n_threads
        assert threading.get_ident() in kernel.threads


def test_the_threads_are_kept(n_threads):
    run_chunks(Recorder(meet=n_threads), 50, 1)
    before = threading.enumerate()
    for _ in range(20):
        run_chunks(Recorder(meet=n_threads), 50, 1)
    assert threading.enumerate() == before


def test_small_work_and_single_threads_stay_on_the_calling_thread(n_threads):
    kernel = Recorder()
    run_chunks(kernel, 5, 5)
    torch.set_num_threads(1)
    run_chunks(kernel, 50, 1)
    assert kernel.threads == {threading.get_ident()}


def test_several_threads_use_the_pool_at_the_same_time(n_threads):
    kernels = [Recorder() for _ in range(6)]
    callers = [threading.Thread(target=run_chunks, args=(kernel, 500, 1)) for kernel in kernels]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(sorted(kernel.ranges) == [(i, i + 1) for i in range(500)] for kernel in kernels)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["caller", "pool"])
def test_an_error_ends_the_work_once_all_chunks_have_ended(n_threads, error, where):
    meeting, caller = threading.Barrier(n_threads), threading.get_ident()
    begun, ended = [], []

    def kernel(start, stop):
        begun.append(start)
        if len(begun) <= n_threads:
            meeting.wait(timeout=30)
        if (threading.get_ident() == caller) == (where == "caller"):
            raise error("of a chunk")
        time.sleep(0.05)
        ended.append(start)

    with pytest.raises(error, match="of a chunk"):
        run_chunks(kernel, 1000, 1)
    assert len(begun) < 3 * n_threads
    n_ended = len(ended)
    time.sleep(0.1)
    assert len(ended) == n_ended  # none was still running


def test_ctrl_c_ends_the_work_once_all_chunks_have_ended(n_threads):
    meeting, caller = threading.Barrier(n_threads), threading.get_ident()
    running = []

    def kernel(start, stop):
        running.append(start)
        if start < n_threads:
            meeting.wait(timeout=30)
        if threading.get_ident() == caller:
            _thread.interrupt_main()
            _thread.interrupt_main()
        time.sleep(0.02)
        running.remove(start)

    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            run_chunks(kernel, 1000, 1)
        assert all(start < 1000 for start in running)
        assert len(running) <= 1  # the caller's own chunk, which was interrupted itself
        running.clear()


class Owner:
    """Stands for tensors that a kernel reads."""


@pytest.mark.parametrize("fails", [False, True])
def test_the_tensors_of_a_kernel_are_free_afterwards(n_threads, fails):
    meeting, owner, freed = threading.Barrier(n_threads), Owner(), threading.Event()
    weakref.finalize(owner, freed.set)

    def kernel(start, stop, owner=owner):
        if start < n_threads:
            meeting.wait(timeout=30)
        if fails:
            raise ValueError(f"{start} to {stop}")

    del owner
    gc.disable()  # which would also free cycles
    try:
        with contextlib.suppress(ValueError):
            run_chunks(kernel, 100, 1)
        del kernel
        assert freed.wait(timeout=30)
    finally:
        gc.enable()


def test_work_that_the_pool_never_begins_keeps_no_tensors(n_threads):
    meeting, go_on = threading.Barrier(n_threads + 1), threading.Event()

    def occupy(start, stop):
        meeting.wait(timeout=30)
        go_on.wait(timeout=30)

    other = threading.Thread(target=run_chunks, args=(occupy, n_threads, 1))
    other.start()
    meeting.wait(timeout=30)
    try:
        owner, freed = Owner(), threading.Event()
        weakref.finalize(owner, freed.set)
        run_chunks(lambda start, stop, owner=owner: None, 100, 1)
        del owner
        assert freed.is_set()
    finally:
        go_on.set()
        other.join()


def test_all_threads_flush_denormals_as_the_caller_does(n_threads):
    flush_bits = load().function("gpukmeans_flush_bits", restype=ctypes.c_uint64)
    meeting = threading.Barrier(n_threads)
    found = []

    def kernel(start, stop):
        found.append(flush_bits() != 0)
        meeting.wait(timeout=30)

    for flush in (True, False):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush denormal numbers")
        try:
            run_chunks(kernel, n_threads, 1)
        finally:
            torch.set_flush_denormal(False)
        assert found == [flush] * n_threads
        found.clear()


FORKED = """
import os, threading, torch
from gpukmeans.engines.native.threads import run_chunks
torch.set_num_threads(3)
def threads():
    meeting, threads = threading.Barrier(3), set()
    def kernel(start, stop):
        threads.add(threading.get_ident())
        meeting.wait(timeout=20)
    run_chunks(kernel, 3, 1)
    return threads
threads()
busy = threading.Thread(target=lambda: [threads() for _ in range(200)])
busy.start()
children = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if len(threads()) == 3 else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
busy.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_computes_in_a_pool_of_its_own():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    environment = os.environ | {"PYTHONPATH": str(native.ROOT)}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100, env=environment)
    assert answer.stdout.strip() == str([0] * 20)


INTERRUPTED = """
import _thread, random, threading, time, torch
from gpukmeans.engines.native.threads import run_chunks
torch.set_num_threads(3)
running, lock, begun = set(), threading.Lock(), threading.Event()
def kernel(start, stop):
    if threading.current_thread() is threading.main_thread():
        time.sleep(2e-4)
        return
    with lock:
        running.add(start)
    time.sleep(1e-3)
    with lock:
        running.remove(start)
def interrupt():
    while True:
        begun.wait()
        begun.clear()
        time.sleep(random.uniform(0, 5e-3))
        _thread.interrupt_main()
threading.Thread(target=interrupt, daemon=True).start()
for _ in range(100):
    try:
        begun.set()
        run_chunks(kernel, 10**6, 1)
    except KeyboardInterrupt:
        assert not running
print("joined")
"""


def test_of_100_interruptions_at_any_moment_all_end_the_chunks_first():
    answer = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(native.ROOT)},
    )
    assert answer.stdout.strip() == "joined", answer.stderr
