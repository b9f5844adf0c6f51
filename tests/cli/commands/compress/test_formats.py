"""Formats, metadata, color encodings and animations."""

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import color_profiles
from helpers.image_files import chunks, noise, rgba, save
from PIL import Image, PngImagePlugin

from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.source import read_source

# Formats and metadata


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp", ".PNG"])
def test_the_suffix_sets_the_format_and_all_formats_have_equal_pixels(report, crop, tmp_path, suffix):
    report(crop, "-k", 12, "-o", tmp_path / f"out{suffix}")
    report(crop, "-k", 12, "-o", tmp_path / "plain.png")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.format == suffix[1:].upper()
    assert np.array_equal(rgba(tmp_path / f"out{suffix}"), rgba(tmp_path / "plain.png"))


def test_profile_resolution_exif_and_text_are_kept_and_stripped(report, crop, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "someone")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    with Image.open(crop) as image:
        image.save(tmp_path / "rich.png", icc_profile=profile, dpi=(300, 300), exif=exif, pnginfo=text)
    report(tmp_path / "rich.png", "-k", 9, "-o", tmp_path / "kept.png")
    with Image.open(tmp_path / "kept.png") as image:
        assert image.size == (96, 128)  # upright
        assert image.info["icc_profile"] == profile
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.text["Author"] == "someone"
        assert image.getexif()[0x010E] == "a description"
        assert image.getexif().get(0x0112, 1) == 1
    report(tmp_path / "rich.png", "-k", 9, "-o", tmp_path / "bare.png", "--strip")
    assert set(chunks(tmp_path / "bare.png")) == {"IHDR", "PLTE", "IDAT", "IEND"}


@pytest.fixture
def linear(tmp_path):
    """A PNG of 256 distinct colors in linear light, and the same colors in sRGB."""
    in_srgb = to_srgb(noise(16, 16, 3), Metadata(color_chunks=(color_profiles.LINEAR,)))
    assert abs(in_srgb.astype(int) - noise(16, 16, 3)).mean() > 40
    return color_profiles.save_linear(noise(16, 16, 3), tmp_path / "linear.png"), in_srgb


@pytest.mark.parametrize("options", [[], ["--strip"]])
def test_the_color_encoding_of_a_png_is_kept_in_a_png(report, linear, tmp_path, options):
    report(linear[0], "-k", 256, "-o", tmp_path / "out.png", "--allow-larger", *options)
    assert chunks(tmp_path / "out.png")["gAMA"] == struct.pack(">I", 100_000)
    assert np.array_equal(rgba(tmp_path / "out.png"), rgba(linear[0]))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "out.gif"),
        ([], "out.webp"),
        (["--space", "oklab"], "out.png"),
        (["--space", "linear"], "out.png"),
    ],
)
def test_colors_become_srgb_where_their_encoding_cannot_be_kept(report, linear, tmp_path, options, name):
    report(linear[0], "-k", 256, "-o", tmp_path / name, "--allow-larger", *options)
    assert name != "out.png" or "gAMA" not in chunks(tmp_path / name)
    assert np.array_equal(rgba(tmp_path / name)[..., :3], linear[1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["-k", 2, "--fixed", "#ff0000"], [[255, 0, 0]]), (["--palette", "colors.png"], [[188, 188, 188]])],
)
def test_images_are_converted_to_srgb_for_given_colors(report, tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("colors.png", "in.png"):
        color_profiles.save_linear(np.full((4, 4, 3), 128, np.uint8), name)
    report("in.png", "-o", "out.png", *options)
    assert "gAMA" not in chunks(Path("out.png"))
    assert rgba(Path("out.png"))[0, 0, :3].tolist() == [188, 188, 188]
    with Image.open("out.png") as image:
        palette = [[188] * 3] if image.mode == "L" else np.reshape(image.getpalette(), (-1, 3)).tolist()
    assert all(color in palette for color in expected)


def test_images_of_unlike_encodings_share_a_palette_in_srgb(run, linear, tmp_path):
    other = save(linear[1], tmp_path / "srgb.png")
    assert run(linear[0], other, "-k", 256, "--shared-palette", "-d", tmp_path / "out")[0] == 0
    for name in ("linear-256.png", "srgb-256.png"):
        assert "gAMA" not in chunks(tmp_path / "out" / name)
        assert np.array_equal(rgba(tmp_path / "out" / name)[..., :3], linear[1])


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_the_color_encoding_of_an_animation_is_kept_or_becomes_srgb(report, tmp_path, suffix):
    first = np.full((4, 4, 3), 128, np.uint8)
    others = [Image.fromarray(first // 2)]
    info = PngImagePlugin.PngInfo()
    info.add(*color_profiles.LINEAR)
    Image.fromarray(first).save(tmp_path / "in.png", pnginfo=info, save_all=True, append_images=others)
    report(tmp_path / "in.png", "-k", 4, "-o", tmp_path / f"out{suffix}", "--allow-larger")
    found = read_source(tmp_path / f"out{suffix}")
    assert found.metadata.color_chunks == ((color_profiles.LINEAR,) if suffix == ".png" else ())
    assert [int(frame[0, 0, 0]) for frame in found.frames] == ([128, 64] if suffix == ".png" else [188, 137])


# Animations


def animation(path, n_frames=5, **options):
    frames = []
    for i in range(n_frames):
        pixels = noise(16, 24, 3, seed=1) // 4
        pixels[4:10, 2 + 3 * i : 8 + 3 * i] = (250, 30 * i, 20)
        frames.append(Image.fromarray(pixels))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 40, 250, 40, 70][:n_frames], **options)
    return path


@pytest.mark.parametrize("source", ["a.png", "a.webp"])
@pytest.mark.parametrize(("output", "loop"), [("out.png", 3), ("out.gif", 2)])  # a GIF stores repetitions
def test_an_animation_keeps_frames_timing_and_plays_with_one_palette(report, tmp_path, source, output, loop):
    options = {"lossless": True} if source.endswith("webp") else {}
    found = report(animation(tmp_path / source, loop=3, **options), "-k", 16, "-o", tmp_path / output)
    assert found["frames"] == 5
    with Image.open(tmp_path / output) as image:
        assert (image.n_frames, image.info["loop"]) == (5, loop)
        durations, colors = [], set()
        for i in range(5):
            image.seek(i)
            durations.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB"))
            colors |= {tuple(color) for color in shown.reshape(-1, 3).tolist()}
            assert shown[5, 4 + 3 * i, 0] > 200
    assert durations == [100, 40, 250, 40, 70]
    assert len(colors) <= 16
