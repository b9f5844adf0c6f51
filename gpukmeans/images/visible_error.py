"""`mean_visible_error`: the error between an image and its indexed image after a small blur."""

from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.images.colorspace import SRGB
from gpukmeans.images.histogram import check_image
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.rate_distortion import BLURRED_SHARE, WHOLE, Objective, energy


@eager
def mean_visible_error(image: UInt8[Tensor, "h w c"], indexed: IndexedImage) -> float:
    """Mean over the pixels of e·R·e, in squared 8-bit levels: what `dither="optimized"` minimizes beside bits.

    e are the errors, R is 208/256 of a blur by [1 2 1] x [1 2 1] correlated with itself and 48/256 of the identity.
    Errors that cancel between neighboring pixels count less than in `mean_squared_error`.

    Raises TypeError or ValueError for other input.

    Args:
        image: uint8 (H, W, C).
        indexed: palette (K, C) and indices (H, W).

    Example:
        >>> image = torch.full((2, 2, 1), 128, dtype=torch.uint8)
        >>> palette = torch.tensor([[126], [130]], dtype=torch.uint8)
        >>> flat, mixed = torch.tensor([[0, 0], [0, 0]]), torch.tensor([[0, 1], [1, 0]])
        >>> [mean_visible_error(image, IndexedImage(palette, each.byte())) for each in (flat, mixed)]
        [6.05859375, 2.40234375]
    """
    check_image(image)
    if indexed.indices.shape != image.shape[:2]:
        expected, received = tuple(image.shape[:2]), tuple(indexed.indices.shape)
        raise ValueError(f"indexed must have indices of shape {expected}, like image, got {received}")
    total = energy(image, indexed, Objective(share=BLURRED_SHARE, price=0))
    n_pixels, unit = image.shape[0] * image.shape[1], SRGB.unit(image.shape[2])
    return total / (WHOLE**2 * n_pixels * unit**2)
