"""Options of `gpukmeans compress` for the clustering, the device and the size of images."""

import json

import pytest
from helpers.command_processes import INSTALLED_COMMAND, run_process
from helpers.image_files import assert_one_line, files, noise, save
from helpers.photos import CHINA
from PIL import Image

import gpukmeans
from gpukmeans.images.palette import BEST_QUALITY
from gpukmeans_cli.compression import palette_fit


@pytest.fixture
def clustering(monkeypatch):
    """The options of `fit_palette`."""
    used_options = {}

    def fit_palette(histogram, n_colors, **options):
        used_options.update(options, n_colors=n_colors, seed=options["generator"].initial_seed())
        del used_options["callback"]  # which stops the run on request
        return original(histogram, n_colors, **options)

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fit_palette)
    return used_options


def test_the_defaults_are_the_documented_ones(run, photo, clustering):
    run(photo)
    del clustering["generator"]
    # The library sets the defaults of all other options.
    documented = {"n_colors": 256, "space": "srgb", "fixed": None, "init": "random", "max_iter": 100, "seed": 0}
    assert clustering == documented


def test_options_reach_the_clustering(run, photo, clustering):
    run(
        photo,
        "-k",
        5,
        "--init",
        "k-means++",
        "--n-init",
        3,
        "--refine",
        2,
        "--max-iter",
        7,
        "--tol",
        "0.5",
        "--seed",
        2**63 - 1,
        "--space",
        "oklab",
    )
    del clustering["generator"]
    given = {"n_colors": 5, "init": "k-means++", "n_init": 3, "refine": 2, "max_iter": 7, "tol": 0.5, "seed": 2**63 - 1}
    assert clustering == given | {"space": "oklab", "fixed": None}


def test_best_sets_the_search_options_that_are_not_given(run, photo, clustering):
    run(photo, "--best", "--n-init", 3)
    assert {name: clustering[name] for name in BEST_QUALITY} == BEST_QUALITY | {"n_init": 3}


@pytest.mark.parametrize("name", gpukmeans.SEEDINGS)
def test_each_seeding_can_be_chosen(run, photo, name):
    assert run(photo, "-k", 3, "--init", name)[0] == 0


@pytest.mark.parametrize("n_colors", [1, 256])
def test_the_smallest_and_the_largest_number_of_colors_are_accepted(run, tmp_path, n_colors):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    report = json.loads(run(photo, "--colors", n_colors, "--max-iter", 1, "--json")[1])
    assert report["colors_out"] == n_colors


def test_equal_seeds_give_equal_bytes_and_different_seeds_do_not(run, photo, tmp_path):
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        assert run(photo, "-k", 6, "--max-iter", 2, "--seed", seed, "-o", tmp_path / f"{name}.png")[0] == 0
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again
    assert one != other


def test_the_number_of_threads_does_not_change_a_byte(tmp_path):
    for threads in ("1", "2"):
        args = (INSTALLED_COMMAND, "compress", CHINA, "-k", "64", "--dither", "none", "--max-iter", "3", "-q")
        answer = run_process(*args, "-o", tmp_path / f"{threads}.png", env={"OMP_NUM_THREADS": threads})
        assert (answer.returncode, answer.stderr) == (0, b"")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_max_pixels_rejects_images_with_more_pixels(run, photo, tmp_path):
    assert run(photo, "-k", 2, "--max-pixels", 187)[0] == 0
    code, out, err = run(photo, "-k", 2, "-f", "--max-pixels", 186)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "187 pixels", "186", "--max-pixels")


def test_max_pixels_raises_the_limit_for_a_decompression_bomb(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)  # Pillow refuses from twice that on
    code, out, err = run(photo, "-k", 2)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "187 pixels", "180", "--max-pixels")
    assert files(tmp_path).keys() == {photo}
    assert run(photo, "-k", 2, "--max-pixels", 200)[0] == 0


def test_the_given_device_is_used(run, photo):
    assert json.loads(run(photo, "-k", 2, "--device", "cpu", "--json")[1])["device"] == "cpu"
    assert json.loads(run(photo, "-k", 2, "--device", "auto", "--json", "-f")[1])["device"] == "cpu"
