"""The scale of `--quality`: a number from 0 to 100 for the visible error of a picture.

It is a straight line in the logarithm of the mean visible error (`mean_visible_error`), fitted to SSIMULACRA2 on eight
photos: about 90 looks like the original, 70 has visible differences, 50 is poor.
"""

import math

# Quality at a mean visible error of 1, and the loss for each factor of e.
_AT_ONE, _PER_FACTOR = 95.0, 7.0


def quality_of_error(error: float) -> float:
    """The quality, 0 to 100, of a mean visible error in squared 8-bit levels."""
    return 100.0 if error == 0 else min(max(_AT_ONE - _PER_FACTOR * math.log(error), 0.0), 100.0)


def error_of_quality(quality: float) -> float:
    """The mean visible error, in squared 8-bit levels, of a quality."""
    return math.exp((_AT_ONE - quality) / _PER_FACTOR)
