"""The scale of `--quality`: a number from 0 to 100 for the visible error of a picture.

The quality is 100 minus a multiple of the root of `mean_visible_error`. The factor was fitted to SSIMULACRA2 on eight
photos of 0.4 megapixels in 16 to 256 colors. Above 40, the quality and SSIMULACRA2 differ by 1.6 on average. An image
of quality 90 looks like the original, 70 has visible differences, and 50 is poor.
"""

import math

# Decrease of the quality for each 8-bit level of the root of the mean visible error.
_PER_LEVEL = 7.1


def quality_of_error(error: float) -> float:
    """The quality, 0 to 100, of a mean visible error in squared 8-bit levels."""
    return max(100.0 - _PER_LEVEL * math.sqrt(error), 0.0)


def error_of_quality(quality: float) -> float:
    """The mean visible error, in squared 8-bit levels, of a quality."""
    return ((100.0 - quality) / _PER_LEVEL) ** 2
