"""Start and exit of the process: the delayed import of torch, Ctrl-C and SIGTERM, and an exit without teardown."""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn


def import_torch() -> None:
    """Import torch with the garbage collector off and with short OpenMP spins.

    The collector would scan the permanent objects of torch again and again. With the collector off, the import takes
    1.14 s instead of 1.23 s, and a later pause of 50 ms is saved.

    By default, waiting OpenMP threads of torch spin for a long time. Two commands that ran at once on two cores, with
    18 megapixels each, took 45 s by default and 2.9 s with short spins. A single command takes 1.8 s either way.

    Ctrl-C during the import raises KeyboardInterrupt after it.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.disable()
    try:
        with deferred_interrupt():
            import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Inside, Ctrl-C is recorded; KeyboardInterrupt is raised at the end.

    If Ctrl-C interrupts the import of numpy by torch, torch continues without numpy and fails later.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


class Terminated(KeyboardInterrupt):  # not an Exception, so that handlers of errors do not catch it
    """The exception raised for SIGTERM."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`, so that the command cleans up as for Ctrl-C. An existing handler stays."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_now(code: int) -> NoReturn:
    """Flush the standard streams and exit the process with this code. OSError if they cannot be flushed.

    A normal exit of Python first frees the objects of torch, which takes 0.1 s. Files must be closed before the call.
    Functions registered with atexit are not called.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
