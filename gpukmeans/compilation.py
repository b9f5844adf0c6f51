"""Functions that run eagerly inside code compiled by `torch.compile`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which inside compiled code breaks the graph and runs as it does elsewhere.

    For functions whose steps depend on values, as the loop of K-means does: a compiler cannot capture these in one
    graph, and what it captures of them it may compute with other bits, or fail to compile.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # Not for all calls, as the first `disable` imports the compiler, which takes longer than most clusterings.
            disabled: Any = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return run
