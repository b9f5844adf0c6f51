"""Calls of kernels for chunks of items on several threads, as many as torch uses.

The threads are Python threads in a pool that ends with the process. They run at the same time, because kernels release
Python's global lock. Idle threads sleep. OpenMP is not used: its idle threads spin, which delays other processes.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch

from gpukmeans.engines.native.library import load

Kernel = Callable[[int, int], object]
"""A function of `start` and `stop` that computes the items of this range."""


def run_chunks(kernel: Kernel, n_items: int, chunk: int) -> None:
    """Call `kernel(start, stop)` for ranges of at most `chunk` items that cover 0 to `n_items`.

    The calls run on up to `torch.get_num_threads()` threads, including the calling thread. A single chunk runs on the
    calling thread. The threads flush denormal numbers to zero if the calling thread does, and only then.

    After an exception in a chunk, or KeyboardInterrupt, no other chunk begins. The exception is raised when the chunks
    that have begun are complete, so a chunk should take at most 50 ms.
    """
    work = _Work(kernel, n_items, chunk)
    n_helpers = min(torch.get_num_threads(), -(-n_items // chunk)) - 1
    if n_helpers < 1:
        work.run_chunks()
        return
    error: BaseException | None = None
    while True:
        try:
            if error is None:
                work.flush_bits = load().function("gpukmeans_flush_bits", restype=ctypes.c_uint64)()
                _pool.offer(work, n_helpers)
                work.run_chunks()
            work.wait_for_helpers()
            break
        except BaseException as caught:  # including KeyboardInterrupt while this thread waits
            work.stopped = True
            error = error or caught
    work.kernel = _no_kernel  # the queue of the pool may still contain the work, and must not keep its tensors alive
    error, work.error = error or work.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error  # the exception refers to this frame; a reference back would keep tensors alive


class _Work:
    """A kernel, the chunks that have not begun, and the number of threads of the pool that compute chunks."""

    def __init__(self, kernel: Kernel, n_items: int, chunk: int) -> None:
        self.kernel = kernel
        self.flush_bits = 0
        self.stopped = False
        self.error: BaseException | None = None
        self._n_items, self._chunk = n_items, chunk
        self._next = 0
        self._lock = threading.Lock()
        # The number of threads in `help`, under the lock. With a queue of messages, an interrupt of the waiting thread
        # could lose a message that is received but not yet counted.
        self._n_helpers = 0
        self._helpers_left = threading.Lock()
        self._helpers_left.acquire()

    def run_chunks(self) -> None:
        """Compute chunks until all have begun or a thread has stopped the work."""
        while (start := self._begin_chunk()) is not None:
            self.kernel(start, min(start + self._chunk, self._n_items))

    def help(self) -> None:
        """Compute chunks on a thread of the pool."""
        with self._lock:
            if not self._has_chunks():
                return
            self._n_helpers += 1
        try:
            load().function("gpukmeans_set_flush_bits", ctypes.c_uint64, restype=None)(self.flush_bits)
            self.run_chunks()
        except BaseException as error:
            self.error = self.error or error
            self.stopped = True
        with self._lock:  # no chunk is left to begin, so the number does not grow again
            self._n_helpers -= 1
            if self._n_helpers == 0:
                self._helpers_left.release()

    def wait_for_helpers(self) -> None:
        """Wait until no thread of the pool is in `help`. No thread begins a chunk after that."""
        while self._n_helpers > 0:
            self._helpers_left.acquire()

    def _has_chunks(self) -> bool:
        return not self.stopped and self._next < self._n_items

    def _begin_chunk(self) -> int | None:
        with self._lock:
            if not self._has_chunks():
                return None
            start = self._next
            self._next += self._chunk
            return start


class _Pool:
    """Threads that wait for work. They end with the process."""

    def __init__(self) -> None:
        self._works: SimpleQueue[_Work] = SimpleQueue()
        self._n_threads = 0
        self._lock = threading.Lock()

    def offer(self, work: _Work, n_helpers: int) -> None:
        """Queue the work for `n_helpers` threads, and start threads until there are that many."""
        with self._lock:
            while self._n_threads < n_helpers:
                threading.Thread(target=self._serve, name="gpukmeans kernels", daemon=True).start()
                self._n_threads += 1
        for _ in range(n_helpers):
            self._works.put(work)

    def _serve(self) -> None:
        while True:
            self._works.get().help()


_pool = _Pool()


def _forget_pool() -> None:
    """Replace the pool in a forked process, which has no threads, and in which a lock of the pool may be locked."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_pool)


def _no_kernel(start: int, stop: int) -> None:
    raise AssertionError("all chunks are begun")
