"""`mean_visible_error`: the error between an image and its indexed image after a small blur, where it is visible."""

from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.images.colorspace import SRGB, has_alpha
from gpukmeans.images.contrast import block_differences, block_sizes
from gpukmeans.images.histogram import check_image
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.rate_distortion import BLURRED_SHARE, WHOLE, Objective, block_energies

# Mean absolute difference of a channel from neighboring pixels, in levels, with which an error counts as it is.
_CONTRAST = 5


@eager
def mean_visible_error(image: UInt8[Tensor, "h w c"], indexed: IndexedImage) -> float:
    """Mean over the pixels of a weight times e·R·e, in squared 8-bit levels.

    e are the errors, R is 208/256 of a blur by [1 2 1] x [1 2 1] correlated with itself and 48/256 of the identity.
    Errors that cancel between neighboring pixels count less than in `mean_squared_error`. The weight of each block of
    8 x 8 pixels is ((1 + 5) / (1 + c)) ** 0.75, c being the mean absolute difference of its pixels from those to the
    left and above, in levels a channel: errors count less where the contrast is high. The sum is exact in 1/65536.

    Raises TypeError or ValueError for other input.

    Args:
        image: uint8 (H, W, C).
        indexed: palette (K, C) and indices (H, W).

    Example:
        >>> image = torch.full((2, 2, 1), 128, dtype=torch.uint8)
        >>> palette = torch.tensor([[126], [130]], dtype=torch.uint8)
        >>> flat, mixed = torch.tensor([[0, 0], [0, 0]]), torch.tensor([[0, 1], [1, 0]])
        >>> [round(mean_visible_error(image, IndexedImage(palette, each.byte())), 2) for each in (flat, mixed)]
        [23.23, 9.21]
    """
    check_image(image)
    if indexed.indices.shape != image.shape[:2]:
        expected, received = tuple(image.shape[:2]), tuple(indexed.indices.shape)
        raise ValueError(f"indexed must have indices of shape {expected}, like image, got {received}")
    energies = block_energies(image, indexed, Objective(share=BLURRED_SHARE, price=0))
    height, width, n_channels = image.shape
    n_differences = 2 * (n_channels - has_alpha(n_channels)) * block_sizes(height, width, image.device)
    relative = (1 + _CONTRAST) / (1 + block_differences(image).double() / n_differences)
    # Roots and products are rounded alike on every device, unlike powers; sums of integers have any order.
    weighted = energies.double() * (relative.sqrt() * relative.sqrt().sqrt()) / SRGB.unit(n_channels) ** 2
    return int(weighted.round().long().sum()) / (WHOLE**2 * height * width)
