"""Whether Triton is installed, in a version that compiles the kernels."""

import functools
import importlib.util


@functools.cache
def unavailable_reason() -> str | None:
    """The reason why there are no Triton kernels, a clause, or None if there are."""
    if importlib.util.find_spec("triton") is None:
        return "it needs triton, which is not installed"
    import triton.language

    if not hasattr(triton.language, "tuple"):
        return f"it needs triton 3.3 or later, got {triton.__version__}"
    return None
