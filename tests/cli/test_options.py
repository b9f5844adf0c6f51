from typing import get_args

import gpukmeans
from gpukmeans_cli import options


def test_the_names_of_options_are_those_of_the_package():
    assert set(get_args(options.Init)) == set(gpukmeans.SEEDINGS)
    assert set(get_args(options.Space)) == set(gpukmeans.COLOR_SPACES)
    assert set(get_args(options.Dither)) == set(gpukmeans.DITHERINGS)
