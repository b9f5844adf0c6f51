"""Functions that run eagerly inside code compiled by `torch.compile`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """A wrapper that breaks the graph of compiled code and runs the function eagerly.

    Functions whose steps depend on values, such as Lloyd's loop, need this decorator, because a compiler cannot capture
    them in one graph. Parts that a compiler captures may give other bits or fail to compile.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # Not called earlier, because the first `disable` imports the compiler, which takes longer than most
            # clusterings.
            disabled: Any = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return run
