"""The process around torch, which is imported here and not before there is work to do, and never taken down."""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn


def import_torch() -> None:
    """Import torch so that it starts sooner and shares the machine.

    The garbage collector would look through the objects that torch makes again and again, though they all stay: without
    that, importing takes 1.14 s where it took 1.23 s, and a later import no longer 50 ms in the middle of the work.

    The threads of GNU OpenMP, which torch brings, spin for a long time while they wait for each other. Two commands at
    once on two cores then took 45 s for a picture of 18 megapixels each, and 2.9 s with fewer spins; one alone takes
    1.8 s in either case.

    KeyboardInterrupt where Ctrl-C was pressed meanwhile, but only when the import is over.
    """
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    gc.disable()
    try:
        with interruption_held():
            import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def interruption_held() -> Iterator[None]:
    """Inside, Ctrl-C only counts; KeyboardInterrupt comes afterwards.

    torch takes numpy for missing where its import is interrupted, and goes on until it stumbles over the half of it.
    """
    usual = threading.current_thread() is threading.main_thread()
    if not usual or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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


class Terminated(KeyboardInterrupt):  # as it is no error
    """The process was told to end, by another one."""


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """Inside, to be told to end (SIGTERM) is as Ctrl-C, which leaves nothing half done; unless it means something.

    What is raised is a `Terminated`.
    """
    usual = threading.current_thread() is threading.main_thread()
    if not usual or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """End the process with this exit code as soon as what was printed is out. OSError if it cannot be.

    Python would first free every object of torch, one by one, which takes 0.1 s. Files must be closed by now, and what
    is registered with atexit is not called.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
