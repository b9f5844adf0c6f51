"""Functions that run eagerly inside code compiled by `torch.compile`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which breaks the graph of compiled code and runs eagerly there.

    Functions whose steps depend on values, such as the loop of K-means, need this: a compiler cannot capture them in
    one graph. It may compute the parts that it captures with other bits, or fail to compile them.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            # Only here, because the first `disable` imports the compiler, which takes longer than most clusterings.
            disabled: Any = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return run
