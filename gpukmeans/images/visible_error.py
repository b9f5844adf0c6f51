"""`mean_visible_error`: the error of an indexed image after a small blur, weighted by its visibility."""

from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.images.colorspace import SRGB, n_color_channels
from gpukmeans.images.contrast import block_differences, block_sizes
from gpukmeans.images.histogram import check_image
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.rate_distortion import BLURRED_SHARE, WHOLE, Objective, block_energies

# Contrast at which an error has a weight of 1, in levels: mean absolute difference of neighboring pixels per channel.
_CONTRAST = 5


@eager
def mean_visible_error(image: UInt8[Tensor, "h w c"], indexed: IndexedImage) -> float:
    """Mean visible error of an indexed image, in squared 8-bit levels.

    This is the mean over the pixels of weight x e·R·e, where e are the errors of the pixels. R is 48/256 of the
    identity plus 208/256 of a blur by [1 2 1] x [1 2 1] correlated with itself. So errors that cancel between
    neighboring pixels count less than in `mean_squared_error`. The weight of a block of 8 x 8 pixels is
    ((1 + 5) / (1 + c)) ** 0.75. The contrast c is the mean absolute difference between the pixels of the block and
    their left and upper neighbors, in levels per channel. So errors count less where the contrast is high. The sum over
    each block is rounded to 1/65536.

    Args:
        image: uint8 (H, W, C).
        indexed: palette (K, C) and indices (H, W).

    Raises:
        TypeError: if the image is not a uint8 tensor.
        ValueError: if the image has another shape, or the indices have another height or width than the image.

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
    n_differences = 2 * n_color_channels(n_channels) * block_sizes(height, width, image.device)
    relative = (1 + _CONTRAST) / (1 + block_differences(image).double() / n_differences)
    # Square roots and products are equal on all devices, unlike powers. Sums of integers do not depend on their order.
    weighted = energies.double() * (relative.sqrt() * relative.sqrt().sqrt()) / SRGB.unit(n_channels) ** 2
    return int(weighted.round().long().sum()) / (WHOLE**2 * height * width)
