"""Short texts for results: shapes instead of values."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gpukmeans.validation import short_name


def summary(value: object) -> str:
    """Dtype, shape and device of a tensor with dimensions; the value of any other object.

    Example:
        >>> summary(torch.zeros(8, 3)), summary(torch.tensor(0.5)), summary("plain")
        ('float32 (8, 3) on cpu', '0.5', "'plain'")
    """
    if isinstance(value, Tensor) and value.ndim:
        return f"{short_name(value.dtype)} {tuple(value.shape)} on {value.device}"
    value = value.item() if isinstance(value, Tensor) else value
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def summary_of_fields(name: str, fields: Mapping[str, Any]) -> str:
    """The `repr` of a result with these fields, one field per line.

    Example:
        >>> print(summary_of_fields("Palette", {"colors": torch.zeros(8, 3), "mse": 1.5}))
        Palette(
            colors=float32 (8, 3) on cpu,
            mse=1.5,
        )
    """
    lines = [f"    {key}={summary(value)}," for key, value in fields.items()]
    return "\n".join([f"{name}(", *lines, ")"])
