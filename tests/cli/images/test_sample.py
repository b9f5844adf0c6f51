import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gpukmeans_cli.images.sample import draw_sample

# A column of sky without balloons and hills, with the glow of the sun and some cloud.
_SKY = np.s_[:300, 580:880]


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return draw_sample()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 2), (64, 43), (7, 301), (301, 7)])
def test_the_image_has_the_requested_size(width: int, height: int):
    picture = draw_sample(width, height)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8


def test_the_default_size_is_more_than_a_megapixel(picture: NDArray[np.uint8]):
    assert picture.shape == (864, 1280, 3)
    assert picture.shape[0] * picture.shape[1] > 1_000_000


def test_two_calls_give_the_same_bytes(picture: NDArray[np.uint8]):
    assert draw_sample().tobytes() == picture.tobytes()


def test_the_bytes_are_the_same_on_every_machine(picture: NDArray[np.uint8]):
    digest = hashlib.sha256(picture.tobytes()).hexdigest()
    assert digest == "7272715b35d6e6e1e9cc4a8b8f99c9d0ff274f5388cd74b9c6897dbe8774b1ca"


def test_the_image_has_more_than_fifty_thousand_colors_and_none_is_common(picture: NDArray[np.uint8]):
    _, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    assert len(counts) > 50_000
    assert counts.max() / counts.sum() < 0.03


def test_neighbouring_pixels_of_the_sky_differ_by_little(picture: NDArray[np.uint8]):
    sky = picture[_SKY].astype(np.int16)
    assert np.abs(np.diff(sky, axis=0)).max() <= 3
    assert np.abs(np.diff(sky, axis=1)).max() <= 2


def test_the_sky_has_enough_colors_to_show_banding(picture: NDArray[np.uint8]):
    sky = picture[_SKY].reshape(-1, 3)
    assert len(np.unique(sky, axis=0)) > 2_000
    assert np.ptp(sky, axis=0).max() > 150


def test_the_grass_is_rough(picture: NDArray[np.uint8]):
    grass = picture[700:].astype(np.int16)
    assert 3 < np.abs(np.diff(grass, axis=1)).mean() < 15


def test_few_pixels_are_saturated(picture: NDArray[np.uint8]):
    saturated = np.ptp(picture, axis=2) > 160
    assert 0.003 < saturated.mean() < 0.03


@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param((180, 0, 0), (255, 60, 60), id="red"),
        pytest.param((220, 170, 0), (255, 255, 100), id="yellow"),
        pytest.param((0, 0, 180), (80, 255, 255), id="blue"),
        pytest.param((0, 120, 0), (60, 255, 255), id="green"),
        pytest.param((180, 0, 90), (255, 60, 255), id="magenta"),
    ],
)
def test_a_small_detail_has_this_hue(picture: NDArray[np.uint8], low: tuple[int, int, int], high: tuple[int, int, int]):
    fraction = ((picture >= low) & (picture <= high)).all(axis=2).mean()
    assert 0.00005 < fraction < 0.01


def test_a_smaller_size_shows_the_same_scene(picture: NDArray[np.uint8]):
    shrunk = np.asarray(Image.fromarray(picture).resize((320, 216), Image.Resampling.BOX))
    difference = np.abs(draw_sample(320, 216).astype(np.int16) - shrunk)
    assert difference.mean() < 3
