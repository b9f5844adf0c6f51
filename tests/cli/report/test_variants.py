import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.color_profiles import save_linear
from helpers.image_files import noise, save
from PIL import Image

from gpukmeans import mean_visible_error, quantize
from gpukmeans.images.histogram import unique_colors
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.quality_scale import quality_of_error
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.report.variants import MAX_POINTS, build_report_data
from gpukmeans_cli.system.atomic_files import ImageError

SETTINGS = Settings(n_colors=1, device=torch.device("cpu"))


def decode(data):
    image = Image.open(io.BytesIO(data))
    return image, np.asarray(image.convert("RGBA"))


OPTIMIZED = {"dither": None, "lossy": None}


@pytest.mark.parametrize(
    "options", [{}, OPTIMIZED, {"dither": "bayer", "dither_strength": 0.5}, {"space": "oklab", "seed": 4}]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_variant_is_the_output_of_compress(tmp_path, options, channels):
    pixels = noise(31, 40, channels)
    photo = save(pixels[..., 0] if channels == 1 else pixels, tmp_path / "photo.webp", lossless=True, exact=True)
    settings = replace(SETTINGS, **options)
    data = build_report_data(photo, [2, 9], settings)
    assert (data.width, data.height, data.n_bytes) == (40, 31, photo.stat().st_size)
    for variant in data.variants:
        output = tmp_path / f"{variant.n_colors}.png"
        report = compress_image(photo, output, replace(settings, n_colors=variant.n_colors)).report
        assert variant.data == output.read_bytes()
        assert not variant.kept
        assert (variant.psnr, variant.n_iter) == (report.psnr, report.iterations)
        assert (len(variant.colors), data.n_colors) == (report.colors_out, report.colors_in)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        (OPTIMIZED, "Optimized"),
        ({**OPTIMIZED, "dither_strength": 0.5}, "Optimized"),
        ({"dither": "floyd-steinberg"}, "Floyd-Steinberg"),
        ({"lossy": 25.0}, "Lossy"),
    ],
)
def test_each_variant_is_beside_the_output_of_compress_without_dithering(tmp_path, options, mode):
    photo = save(noise(31, 40, 3), tmp_path / "photo.bmp")
    data = build_report_data(photo, [9], replace(SETTINGS, **options))
    (variant,) = data.variants
    report = compress_image(photo, tmp_path / "9.png", replace(SETTINGS, n_colors=9)).report
    assert variant.mode == mode
    assert variant.plain.data == (tmp_path / "9.png").read_bytes() != variant.data
    assert variant.plain.psnr == report.psnr > variant.psnr
    assert not variant.plain.kept


@pytest.mark.parametrize("options", [{}, {"dither": "bayer", "dither_strength": 0.0}])
def test_a_variant_in_nearest_colors_has_no_second_encoding(tmp_path, options):
    data = build_report_data(save(noise(31, 40, 3), tmp_path / "a.png"), [9], replace(SETTINGS, **options))
    assert data.variants[0].mode == "Nearest"
    assert data.variants[0].plain is None


def test_a_lossless_variant_has_the_nearest_colors(tmp_path):
    photo = save(noise(3, 4, 3), tmp_path / "a.png")
    data = build_report_data(photo, [9, 12], replace(SETTINGS, **OPTIMIZED))
    assert [variant.mode for variant in data.variants] == ["Optimized", "Nearest"]


def test_the_quality_has_the_scale_of_the_quality_target_of_compress(tmp_path, china):
    photo = save(china.numpy()[::3, ::3].copy(), tmp_path / "photo.png")
    (variant,) = build_report_data(photo, [32], replace(SETTINGS, **OPTIMIZED)).variants
    settings = replace(SETTINGS, **OPTIMIZED, n_colors=32, allow_larger=True, force=True)
    assert variant.quality > variant.plain.quality
    shown = torch.from_numpy(decode(variant.data)[1][..., :3].copy())
    indexed = quantize(shown, 256)
    assert (indexed.pixels() == shown).all()
    error = mean_visible_error(china[::3, ::3].contiguous(), indexed)
    assert variant.quality == pytest.approx(quality_of_error(error), abs=1e-6)
    assert compress_image(photo, tmp_path / "out.png", settings).report.psnr == variant.psnr


def test_the_palette_has_the_used_colors_most_used_first(tmp_path):
    photo = save(noise(31, 40, 3), tmp_path / "photo.png")
    (variant,) = build_report_data(photo, [6], replace(SETTINGS, dither="floyd-steinberg")).variants
    used, counts = np.unique(decode(variant.data)[1].reshape(-1, 4)[:, :3], axis=0, return_counts=True)
    assert list(variant.counts) == sorted(counts, reverse=True)
    shown = {tuple(color): count for color, count in zip(variant.colors.tolist(), variant.counts.tolist(), strict=True)}
    assert shown == {tuple(color): count for color, count in zip(used.tolist(), counts.tolist(), strict=True)}
    assert sum(variant.fractions) == pytest.approx(1)


def test_swatches_have_the_colors_that_are_shown_and_files_their_encoding(tmp_path):
    photo = save_linear(np.full((4, 5, 3), 128, np.uint8), tmp_path / "photo.png")
    for settings, level in ((SETTINGS, 128), (replace(SETTINGS, space="oklab"), 188)):
        data = build_report_data(photo, [1], settings)
        shown = data.cloud.colors, data.variants[0].colors, data.variants[0].center_colors
        assert [colors.tolist() for colors in shown] == 3 * [[[188, 188, 188]]]
        assert data.original == photo.read_bytes()
        image, pixels = decode(data.variants[0].data)
        assert pixels[0, 0, 0] == level
        assert ("gamma" in image.info) == (level == 128)


def test_inertia_falls_to_the_error_of_the_palette(tmp_path, china):
    photo = save(china.numpy()[::3, ::3].copy(), tmp_path / "photo.png")
    (variant,) = build_report_data(photo, [16], SETTINGS).variants
    assert len(variant.inertia) > 1
    assert list(variant.inertia) == sorted(variant.inertia, reverse=True)
    shown = decode(variant.data)[1][..., :3].astype(int)
    error = ((shown - china.numpy()[::3, ::3]) ** 2).sum()
    assert variant.inertia[-1] == pytest.approx(error, rel=0.01)


def test_an_image_with_few_colors_is_not_clustered(tmp_path):
    photo = save(np.array([[[0, 0, 0], [255, 0, 0], [255, 0, 0]]], dtype=np.uint8), tmp_path / "photo.png")
    data = build_report_data(photo, [1, 2, 256], SETTINGS)
    assert [variant.n_iter for variant in data.variants][1:] == [0, 0]
    for variant in data.variants[1:]:
        assert (variant.psnr, variant.inertia) == (None, ())
        assert variant.colors.tolist() == [[255, 0, 0], [0, 0, 0]]
        assert variant.counts.tolist() == [2, 1]
    assert data.cloud.points.tolist() == [[0, 500], [1000, 500]]
    assert data.cloud.explained_variance_ratio == 1


def test_the_label_of_each_point_is_the_nearest_center(tmp_path, china):
    photo = save(china.numpy()[::2, ::2].copy(), tmp_path / "photo.png")
    data = build_report_data(photo, [3, 20], SETTINGS)
    n_points = len(data.cloud.points)
    assert MAX_POINTS / 2 < n_points <= MAX_POINTS
    assert data.cloud.draw_counts.sum() == MAX_POINTS
    colors = {tuple(color) for color in unique_colors(china[::2, ::2]).colors.tolist()}
    assert {tuple(color) for color in data.cloud.colors.tolist()} <= colors
    for variant in data.variants:
        assert len(variant.centers) == len(variant.center_colors) == variant.n_colors
        offsets = data.cloud.colors[:, None].astype(int) - variant.center_colors.astype(int)
        distances = (offsets**2).sum(axis=2)
        assert (distances[np.arange(n_points), variant.labels] == distances.min(axis=1)).all()
        assert ((variant.centers >= 0) & (variant.centers <= 1000)).all()


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.jpg", {}), ("a.webp", {}), ("a.gif", {})])
def test_the_original_is_the_file_itself_if_browsers_show_it(tmp_path, name, options):
    photo = save(noise(9, 8, 3), tmp_path / name, **options)
    data = build_report_data(photo, [2], SETTINGS)
    assert data.original == photo.read_bytes()
    assert data.original_suffix == {"a.jpg": ".jpeg"}.get(name, photo.suffix)


def rotated(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(noise(9, 8, 3), folder / "rotated.png", exif=exif)


def animated(folder):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    return folder / "animated.png"


def cmyk(folder):
    Image.fromarray(noise(9, 8, 3)).convert("CMYK").save(folder / "cmyk.jpg")
    return folder / "cmyk.jpg"


@pytest.mark.parametrize("make", [rotated, animated, cmyk, lambda folder: save(noise(9, 8, 3), folder / "a.bmp")])
def test_the_original_is_a_lossless_copy_if_browsers_show_the_file_differently_or_not_at_all(tmp_path, make):
    photo = make(tmp_path)
    data = build_report_data(photo, [2], SETTINGS)
    image, pixels = decode(data.original)
    assert data.original != photo.read_bytes()
    assert (image.format, data.original_suffix) == ("WEBP", ".webp")
    assert (image.width, image.height) == (data.width, data.height)
    expected = noise(9, 8, 3)
    if make is rotated:
        expected = np.rot90(expected, -1)
    if make is not cmyk:
        assert np.array_equal(pixels[..., :3], expected)


def test_the_report_on_an_animation_is_that_of_its_first_frame(tmp_path):
    data = build_report_data(animated(tmp_path), [2], SETTINGS)
    still = build_report_data(save(noise(9, 8, 3), tmp_path / "still.png"), [2], SETTINGS)
    assert (data.dropped_frames, still.dropped_frames) == (2, 0)
    assert data.variants[0].colors.tolist() == still.variants[0].colors.tolist()
    assert np.array_equal(decode(data.variants[0].data)[1], decode(still.variants[0].data)[1])


def test_a_photo_that_compress_would_keep_is_marked(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (40, 40), dtype=np.uint8) * 255
    Image.fromarray(pixels).convert("1").save(tmp_path / "photo.png", optimize=True)
    (variant,) = build_report_data(tmp_path / "photo.png", [2], SETTINGS).variants
    kept = compress_image(tmp_path / "photo.png", tmp_path / "out.png", replace(SETTINGS, n_colors=2)).report.kept
    assert variant.kept is kept is True


def test_an_unreadable_photo_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        build_report_data(tmp_path / "missing.png", [2], SETTINGS)
    photo = save(noise(9, 8, 3), tmp_path / "a.png")
    with pytest.raises(ImageError, match="has 72 pixels, the limit is 71"):
        build_report_data(photo, [2], replace(SETTINGS, max_pixels=71))


def test_equal_photos_give_equal_variants(tmp_path):
    photo = save(noise(31, 40, 3), tmp_path / "photo.png")
    one, other = (build_report_data(photo, [2, 5], SETTINGS) for _ in range(2))
    assert [variant.data for variant in one.variants] == [variant.data for variant in other.variants]
    assert [variant.inertia for variant in one.variants] == [variant.inertia for variant in other.variants]
    assert np.array_equal(one.cloud.points, other.cloud.points)
