import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.picture_files import noise, save
from PIL import Image

from gpukmeans.images.histogram import unique_colors
from gpukmeans_cli.compression.pipeline import Settings, compress_picture
from gpukmeans_cli.report.variants import MOST_POINTS, try_colors
from gpukmeans_cli.system.atomic_files import ImageError

SETTINGS = Settings(n_colors=1, device=torch.device("cpu"))


def opened(data):
    image = Image.open(io.BytesIO(data))
    return image, np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("options", [{}, {"dither": "bayer", "dither_strength": 0.5}, {"space": "oklab", "seed": 4}])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_trial_is_what_compress_makes_of_the_photo(tmp_path, options, channels):
    pixels = noise(31, 40, channels)
    photo = save(pixels[..., 0] if channels == 1 else pixels, tmp_path / "photo.webp", lossless=True, exact=True)
    settings = replace(SETTINGS, **options)
    found = try_colors(photo, [2, 9], settings)
    assert (found.width, found.height, found.n_bytes) == (40, 31, photo.stat().st_size)
    for trial in found.trials:
        target = tmp_path / f"{trial.n_colors}.png"
        report = compress_picture(photo, target, replace(settings, n_colors=trial.n_colors)).report
        assert trial.data == target.read_bytes()
        assert not trial.kept
        assert (trial.psnr, trial.n_iter) == (report.psnr, report.iterations)
        assert (len(trial.colors), found.n_colors) == (report.colors_out, report.colors_in)


def test_swatches_are_the_colors_that_pixels_wear_the_most_worn_first(tmp_path):
    photo = save(noise(31, 40, 3), tmp_path / "photo.png")
    (trial,) = try_colors(photo, [6], replace(SETTINGS, dither="floyd-steinberg")).trials
    worn, counts = np.unique(opened(trial.data)[1].reshape(-1, 4)[:, :3], axis=0, return_counts=True)
    assert list(trial.counts) == sorted(counts, reverse=True)
    shown = {tuple(color): count for color, count in zip(trial.colors.tolist(), trial.counts.tolist(), strict=True)}
    assert shown == {tuple(color): count for color, count in zip(worn.tolist(), counts.tolist(), strict=True)}
    assert sum(trial.shares) == pytest.approx(1)


def test_inertia_falls_to_that_of_the_palette(tmp_path, china):
    photo = save(china.numpy()[::3, ::3].copy(), tmp_path / "photo.png")
    (trial,) = try_colors(photo, [16], SETTINGS).trials
    assert len(trial.inertia) > 1
    assert list(trial.inertia) == sorted(trial.inertia, reverse=True)
    shown = opened(trial.data)[1][..., :3].astype(int)
    error = ((shown - china.numpy()[::3, ::3]) ** 2).sum()
    assert trial.inertia[-1] == pytest.approx(error, rel=0.01)


def test_a_picture_of_few_colors_needs_no_clustering(tmp_path):
    photo = save(np.array([[[0, 0, 0], [255, 0, 0], [255, 0, 0]]], dtype=np.uint8), tmp_path / "photo.png")
    found = try_colors(photo, [1, 2, 256], SETTINGS)
    assert [trial.n_iter for trial in found.trials][1:] == [0, 0]
    for trial in found.trials[1:]:
        assert (trial.psnr, trial.inertia) == (None, ())
        assert trial.colors.tolist() == [[255, 0, 0], [0, 0, 0]]
        assert trial.counts.tolist() == [2, 1]
    assert found.cloud.points.tolist() == [[0, 500], [1000, 500]]
    assert found.cloud.share == 1


def test_points_of_the_cloud_belong_to_the_nearest_center(tmp_path, china):
    photo = save(china.numpy()[::2, ::2].copy(), tmp_path / "photo.png")
    found = try_colors(photo, [3, 20], SETTINGS)
    n_points = len(found.cloud.points)
    assert MOST_POINTS / 2 < n_points <= MOST_POINTS
    assert found.cloud.times.sum() == MOST_POINTS
    colors = {tuple(color) for color in unique_colors(china[::2, ::2]).colors.tolist()}
    assert {tuple(color) for color in found.cloud.colors.tolist()} <= colors
    for trial in found.trials:
        assert len(trial.centers) == len(trial.center_colors) == trial.n_colors
        off = found.cloud.colors[:, None].astype(int) - trial.center_colors.astype(int)
        distances = (off**2).sum(axis=2)
        assert (distances[np.arange(n_points), trial.labels] == distances.min(axis=1)).all()
        assert ((trial.centers >= 0) & (trial.centers <= 1000)).all()


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.jpg", {}), ("a.webp", {}), ("a.gif", {})])
def test_the_original_is_the_file_itself_where_browsers_show_it(tmp_path, name, options):
    photo = save(noise(9, 8, 3), tmp_path / name, **options)
    found = try_colors(photo, [2], SETTINGS)
    assert found.original == photo.read_bytes()
    assert found.original_suffix == {"a.jpg": ".jpeg"}.get(name, photo.suffix)


def turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(noise(9, 8, 3), folder / "turned.png", exif=exif)


def animated(folder):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    return folder / "moving.png"


def of_inks(folder):
    Image.fromarray(noise(9, 8, 3)).convert("CMYK").save(folder / "inks.jpg")
    return folder / "inks.jpg"


@pytest.mark.parametrize("make", [turned, animated, of_inks, lambda folder: save(noise(9, 8, 3), folder / "a.bmp")])
def test_the_original_is_shown_without_loss_where_browsers_would_not_or_otherwise(tmp_path, make):
    photo = make(tmp_path)
    found = try_colors(photo, [2], SETTINGS)
    image, pixels = opened(found.original)
    assert found.original != photo.read_bytes()
    assert (image.format, found.original_suffix) == ("WEBP", ".webp")
    assert (image.width, image.height) == (found.width, found.height)
    expected = noise(9, 8, 3)
    if make is turned:
        expected = np.rot90(expected, -1)
    if make is not of_inks:
        assert np.array_equal(pixels[..., :3], expected)


def test_of_an_animation_only_the_first_frame_counts(tmp_path):
    found = try_colors(animated(tmp_path), [2], SETTINGS)
    still = try_colors(save(noise(9, 8, 3), tmp_path / "still.png"), [2], SETTINGS)
    assert (found.frames_left_out, still.frames_left_out) == (2, 0)
    assert found.trials[0].colors.tolist() == still.trials[0].colors.tolist()
    assert np.array_equal(opened(found.trials[0].data)[1], opened(still.trials[0].data)[1])


def test_a_photo_that_compress_would_keep_is_known(tmp_path):
    pixels = np.zeros((40, 40), dtype=np.uint8)
    pixels[::2] = 255
    Image.fromarray(pixels).convert("1").save(tmp_path / "photo.png", optimize=True)
    (trial,) = try_colors(tmp_path / "photo.png", [2], SETTINGS).trials
    kept = compress_picture(tmp_path / "photo.png", tmp_path / "out.png", replace(SETTINGS, n_colors=2)).report.kept
    assert trial.kept is kept is True


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        try_colors(tmp_path / "missing.png", [2], SETTINGS)
    photo = save(noise(9, 8, 3), tmp_path / "a.png")
    with pytest.raises(ImageError, match="has 72 pixels, the limit is 71"):
        try_colors(photo, [2], replace(SETTINGS, max_pixels=71))


def test_equal_photos_make_equal_trials(tmp_path):
    photo = save(noise(31, 40, 3), tmp_path / "photo.png")
    one, other = (try_colors(photo, [2, 5], SETTINGS) for _ in range(2))
    assert [trial.data for trial in one.trials] == [trial.data for trial in other.trials]
    assert [trial.inertia for trial in one.trials] == [trial.inertia for trial in other.trials]
    assert np.array_equal(one.cloud.points, other.cloud.points)
