"""The default options of the mapping of pixels."""

import pytest
import torch

from gpukmeans_cli.compression.mapping import mapping_options
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.system.atomic_files import ImageError

DEFAULTS = {"n_colors": 4, "device": torch.device("cpu"), "dither": None, "lossy": None}


@pytest.mark.parametrize(
    ("options", "animated", "expected"),
    [
        ({}, False, ("optimized", 15.0)),
        ({"effort": 0}, False, ("none", 0.0)),
        ({}, True, ("none", 0.0)),
        ({"dither": "bayer"}, False, ("bayer", 0.0)),
        ({"dither": "bayer", "dither_strength": 0.0}, False, ("none", 0.0)),
        ({"dither": "optimized", "lossy": 4.0}, False, ("optimized", 4.0)),
    ],
)
def test_the_dithering_and_the_price_have_defaults_for_stills_and_animations(options, animated, expected):
    found = mapping_options(Settings(**DEFAULTS | options), ".png", animated=animated)
    assert (found["dither"], found["lossy"]) == expected


@pytest.mark.parametrize(("suffix", "rate"), [(".png", "png"), (".gif", "gif"), (".webp", "gif")])
def test_the_bits_belong_to_the_format_of_the_file(suffix, rate):
    assert mapping_options(Settings(**DEFAULTS), suffix, animated=False)["rate"] == rate


@pytest.mark.parametrize("options", [{"dither": "optimized"}, {"lossy": 1.0}])
def test_optimizing_an_animation_is_an_error(options):
    with pytest.raises(ImageError, match="is an animation, whose still areas"):
        mapping_options(Settings(**DEFAULTS | options), ".gif", animated=True)
