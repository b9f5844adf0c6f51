import sys
import types

import numpy as np
import pytest
from helpers.image_files import noise
from PIL import Image

from gpukmeans_cli.images.ssimulacra2 import measure_ssimulacra2


@pytest.fixture
def measured(monkeypatch):
    """The pairs of pixels that are passed to a package whose measure is the largest level of the first image."""
    pairs = []

    def measure(one, other):
        pairs.append([np.asarray(Image.open(file)) for file in (one, other)])
        return pairs[-1][0].max()

    monkeypatch.setitem(sys.modules, "ssimulacra2", types.SimpleNamespace(compute_ssimulacra2=measure))
    return pairs


def test_the_package_measures_the_pixels_of_both_images(measured):
    before, after = noise(9, 8, 3), noise(9, 8, 1)
    assert measure_ssimulacra2(before, after) == before.max()
    assert np.array_equal(measured, [[before, after.repeat(3, axis=2)]])


def test_the_measure_with_alpha_is_the_lower_one_of_a_dark_and_a_light_background(measured):
    clear = np.zeros((9, 8, 4), dtype=np.uint8)
    assert measure_ssimulacra2(clear, noise(9, 8, 3)) == 26
    assert [int(one.max()) for one, _ in measured] == [26, 230]


@pytest.mark.parametrize(("height", "width"), [(7, 90), (90, 7), (1, 1)])
def test_there_is_no_measure_of_images_of_fewer_than_8_rows_or_columns(measured, height, width):
    assert measure_ssimulacra2(noise(height, width, 3), noise(height, width, 3)) is None
    assert measured == []


def test_there_is_no_measure_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    assert measure_ssimulacra2(noise(9, 8, 3), noise(9, 8, 3)) is None


def test_a_package_without_its_own_requirements_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "ssimulacra2.py").write_text("import a_module_that_does_not_exist")
    monkeypatch.delitem(sys.modules, "ssimulacra2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_does_not_exist"):
        measure_ssimulacra2(noise(9, 8, 3), noise(9, 8, 3))


def test_more_error_is_a_lower_measure(china):
    pytest.importorskip("ssimulacra2")
    pixels = china.numpy()[150:300, :200].copy()
    errors = np.random.default_rng(0).standard_normal(pixels.shape)
    copies = [(pixels + scale * errors).round().clip(0, 255).astype(np.uint8) for scale in (0, 4, 16)]
    found = [measure_ssimulacra2(pixels, copy) for copy in copies]
    assert found[0] == 100 > found[1] > found[2]
