import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import sklearn
from helpers import color_profiles
from helpers.image_files import assert_one_line, chunks, files, noise, rgba, save
from helpers.terminals import needs_pseudo_terminals, run_python
from PIL import Image, PngImagePlugin

from gpukmeans.images.dithering import DITHERINGS
from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.source import read_source

CHINA = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"


pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    """A crop of a photo, as a PNG."""
    path = tmp_path_factory.mktemp("crop") / "crop.png"
    with Image.open(CHINA) as image:
        image.crop((200, 100, 328, 196)).save(path)
    return path


def colors_of(path):
    return {tuple(color) for color in rgba(path).reshape(-1, 4).tolist()}


# Targets


def test_min_psnr_takes_the_fewest_colors_that_reach_it(report, crop, tmp_path):
    found = report(crop, "--min-psnr", 30, "-o", tmp_path / "found.png")
    assert found["psnr"] >= 30
    fewer = report(crop, "-k", found["colors_out"] - 1, "-o", tmp_path / "fewer.png")
    assert fewer["psnr"] < 30


@pytest.mark.parametrize("limit", ["4k", "6000"])
def test_max_bytes_takes_the_most_colors_that_fit(report, crop, tmp_path, limit):
    n_bytes = 4000 if limit == "4k" else 6000
    found = report(crop, "--max-bytes", limit, "-o", tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size == found["bytes_out"] <= n_bytes
    more = report(crop, "-k", found["colors_out"] + 1, "-o", tmp_path / "more.png")
    assert more["bytes_out"] > n_bytes


def test_a_target_names_the_output_palette(report, crop, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(crop.read_bytes())
    assert report(photo, "--min-psnr", 25)["output"] == str(tmp_path / "photo-palette.png")


@pytest.mark.parametrize(("option", "value"), [("--min-psnr", 90), ("--max-bytes", 60)])
def test_an_unreachable_target_is_an_error_and_leaves_no_file(run, crop, tmp_path, option, value):
    code, out, err = run(crop, option, value, "--refine", 0, "--max-iter", 1, "-o", tmp_path / "out.png")
    assert (code, out) == (1, "")
    assert_one_line(err, "crop.png", option, "out of reach")
    assert files(tmp_path) == {}


def test_a_target_holds_for_the_dithered_image(report, crop, tmp_path):
    found = report(crop, "--min-psnr", 28, "--dither", "bayer", "--refine", 0, "-o", tmp_path / "out.png")
    error = (rgba(crop).astype(float) - rgba(tmp_path / "out.png"))[..., :3]
    assert 10 * np.log10(255**2 / (error**2).mean()) == pytest.approx(found["psnr"])
    assert found["psnr"] >= 28


# The search on the screen


def test_verbose_lists_the_tries_of_colors_and_prices(run, crop, tmp_path):
    _, out, err = run(crop, "--max-bytes", "4k", "--dither", "optimized", "-v", "-o", tmp_path / "out.png")
    tries = re.findall(r"^gpukmeans: \S+crop.png: try (\d+): (\d+) colors, lossy ([\d.]+): ([\d.]+) kB$", err, re.M)
    assert [int(number) for number, *_ in tries] == list(range(1, len(tries) + 1))
    assert tries[0][1:3] == ("256", "15")
    n_bytes = (tmp_path / "out.png").stat().st_size
    assert f"{n_bytes / 1000:.1f}" in [size for *_, size in tries]
    assert "try" not in out
    assert "try" not in run(crop, "--max-bytes", "4k", "-f", "-o", tmp_path / "out.png")[2]


@pytest.mark.parametrize(
    ("target", "found"), [(("--min-psnr", 25), r"[\d.]+ dB"), (("--quality", 40), r"quality -?[\d.]+")]
)
def test_tries_of_colors_alone_have_no_price(run, crop, tmp_path, target, found):
    _, _, err = run(crop, *target, "-v", "-o", tmp_path / "out.png")
    assert len(re.findall(rf"crop.png: try \d: \d+ colors?: {found}$", err, re.M)) == err.count("try") > 1


SEARCH = """
from gpukmeans_cli.main import main
main(["compress", *sys.argv[1:]])
"""


@needs_pseudo_terminals
def test_a_search_shows_its_tries_on_a_terminal_and_removes_them(crop, tmp_path):
    args = [str(crop), "--quality", "40", "-o", str(tmp_path / "out.png")]
    code, terminal, _ = run_python(f"import sys\nsys.argv[1:] = {args}{SEARCH}")
    assert code == 0
    assert "\x1b[2Kgpukmeans: try 1: 256 colors, lossy 15\r" in terminal.written
    assert re.search(r"gpukmeans: try 2: \d+ colors, lossy [\d.]+ \(last quality -?[\d.]+\)\r", terminal.written)
    (line,) = terminal.screen()
    assert line.startswith(f"{crop} -> {tmp_path / 'out.png'}: ")


@needs_pseudo_terminals
@pytest.mark.parametrize("args", [["-q", "--quality", "40"], ["{crop}", "--quality", "40", "-j", "1"]])
def test_no_tries_are_shown_with_quiet_and_of_several_files(crop, tmp_path, args):
    copy = shutil.copy(crop, tmp_path / "copy.png")
    args = [str(crop), *(arg.format(crop=copy) for arg in args), "-d", str(tmp_path / "small")]
    code, terminal, _ = run_python(f"import sys\nsys.argv[1:] = {args}{SEARCH}")
    assert code == 0
    assert "try" not in terminal.written


# Given colors


def test_the_palette_contains_the_fixed_colors_exactly(report, crop, tmp_path):
    found = report(crop, "-k", 8, "--fixed", "#ff0000, #0f8", "-o", tmp_path / "out.png")
    palette = chunks(tmp_path / "out.png")["PLTE"]
    entries = {tuple(palette[i : i + 3]) for i in range(0, len(palette), 3)}
    assert {(255, 0, 0), (0, 255, 136)} <= entries
    assert len(entries) == 8
    assert found["colors_out"] == len(colors_of(tmp_path / "out.png"))


def test_the_palette_of_a_grey_image_contains_a_fixed_color(report, tmp_path):
    grey = save(noise(20, 20), tmp_path / "grey.png")
    report(grey, "-k", 4, "--fixed", "#ff0000", "-o", tmp_path / "out.png", "--allow-larger")
    palette = chunks(tmp_path / "out.png")["PLTE"]
    assert b"\xff\x00\x00" in {palette[i : i + 3] for i in range(0, len(palette), 3)}


def test_a_palette_file_is_the_whole_palette(report, crop, tmp_path):
    listed = tmp_path / "list.hex"
    listed.write_text("#000000\n#808080\n#ffffff\n#4060a0\n")
    report(crop, "--palette", listed, "-o", tmp_path / "out.png")
    pixels, given = rgba(crop)[..., :3].astype(int), np.array([[0] * 3, [128] * 3, [255] * 3, [64, 96, 160]])
    nearest = given[((pixels[..., None, :] - given) ** 2).sum(-1).argmin(-1)]
    assert np.array_equal(rgba(tmp_path / "out.png")[..., :3], nearest)


def test_an_image_can_be_the_palette_file(report, crop, tmp_path):
    report(crop, "-k", 5, "-o", tmp_path / "few.png")
    report(CHINA, "--palette", tmp_path / "few.png", "-o", tmp_path / "out.png")
    assert colors_of(tmp_path / "out.png") <= colors_of(tmp_path / "few.png")


def test_transparent_pixels_stay_transparent_with_a_palette_without_alpha(report, tmp_path):
    pixels = noise(12, 12, 4)
    pixels[..., 3] = 255
    pixels[:6, :, 3] = 0
    source = save(pixels, tmp_path / "in.png")
    (tmp_path / "two.hex").write_text("#000000\n#ffffff\n")
    found = report(source, "--palette", tmp_path / "two.hex", "-o", tmp_path / "out.png")
    after = rgba(tmp_path / "out.png")
    assert not after[:6, :, 3].any()
    assert (after[6:, :, 3] == 255).all()
    assert found["colors_out"] == 3


def test_unused_palette_colors_are_not_counted(report, crop, tmp_path):
    (tmp_path / "four.hex").write_text("#000000\n#808080\n#ffffff\n#ff00ff\n")
    assert report(crop, "--palette", tmp_path / "four.hex", "-o", tmp_path / "out.png")["colors_out"] == 3
    assert len(colors_of(tmp_path / "out.png")) == 3


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--fixed", "#12"], "--fixed"),
        (["--fixed", "#fff,#000,#111", "-k", 2], "more than the 2"),
        (["--palette", "missing.gpl"], "missing.gpl"),
        (["--palette", "x", "-k", 3], "cannot be used together"),
        (["--min-psnr", 30, "-k", 3], "cannot be used together"),
        (["--min-psnr", 30, "--max-bytes", "3k"], "cannot be used together"),
        (["--max-bytes", "3 apples"], "--max-bytes"),
        (["--min-psnr", "nan"], "--min-psnr"),
        (["--shared-palette", "--max-bytes", "3k"], "cannot be used together"),
        (["--dither-strength", 2], "--dither-strength"),
        (["--dither-strength", 0.5], "--dither-strength needs --dither"),
        (["--dither", "bayer", "--dither-strength", "nan"], "--dither-strength must be a number from 0 to 1, got nan"),
        (["--palette", "two.hex", "--space", "oklab"], "remove --space oklab"),
        (["--palette", "two.hex", "--best"], "cannot be used together"),
        (["--dither", "riemersma"], "--dither"),
        (["--space", "lab"], "--space"),
        (["-o", "out.jpg"], ".webp"),
    ],
)
def test_a_wrong_argument_gives_one_line_before_any_work(run, crop, tmp_path, monkeypatch, args, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.hex").write_text("#000000\n#ffffff\n")
    code, out, err = run(crop, *args)
    assert (code, out) == (2, "")
    assert_one_line(err, part)
    assert files(tmp_path).keys() == {tmp_path / "two.hex"}


# One palette over many images


def test_a_shared_palette_of_grey_images_contains_the_fixed_colors(run, tmp_path):
    sources = [save(noise(9, 9, seed=seed), tmp_path / f"{seed}.png") for seed in (0, 1)]
    code, _, err = run(*sources, "--shared-palette", "-k", 4, "--fixed", "#ff0000", "--allow-larger", "-q")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "0-4.png") as one, Image.open(tmp_path / "1-4.png") as other:
        assert (255, 0, 0) in one.palette.colors
        assert (255, 0, 0) in other.palette.colors


def test_all_images_are_mapped_to_the_shared_palette(run, crop, tmp_path):
    red, grey = np.zeros((9, 9, 3), dtype=np.uint8), np.full((9, 9), 77, dtype=np.uint8)
    red[..., 0] = 250
    sources = [save(red, tmp_path / "red.png"), save(grey, tmp_path / "grey.png"), tmp_path / "crop.png"]
    sources[2].write_bytes(crop.read_bytes())
    code, _, err = run(*sources, "--shared-palette", "-k", 16, "--json", "-q")
    assert (code, err) == (0, "")
    palettes = [colors_of(tmp_path / f"{path.stem}-16.png") for path in sources]
    assert len(set.union(*palettes)) <= 16
    assert (250, 0, 0, 255) in palettes[0]


def test_an_unreadable_image_is_left_out_of_the_shared_palette(run, crop, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(crop.read_bytes()[:200])
    good = tmp_path / "good.png"
    good.write_bytes(crop.read_bytes())
    code, _, err = run(broken, good, "--shared-palette", "-k", 4, "-q")
    assert code == 1
    assert_one_line(err, "broken.png")
    assert len(colors_of(tmp_path / "good-4.png")) == 4


def test_standard_input_cannot_have_a_shared_palette(run):
    code, out, err = run("-", "--shared-palette")
    assert (code, out) == (2, "")
    assert_one_line(err, "--shared-palette reads images twice")


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
    """A PNG of 256 distinct colors in linear light, and these in sRGB."""
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
def test_colors_meet_given_colors_in_srgb(report, tmp_path, monkeypatch, options, expected):
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


# Degenerate images


def degenerate(name):
    rows = np.arange(257)
    return {
        "one pixel": np.full((1, 1, 3), 7, np.uint8),
        "one color": np.full((9, 9, 3), 200, np.uint8),
        "white": np.full((5, 7), 255, np.uint8),
        "transparent": np.zeros((5, 7, 4), np.uint8),
        "two colors": np.repeat(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), 6, axis=0),
        "257 colors": np.stack([rows % 256, rows // 256 * 90, rows % 7], axis=-1)[None].astype(np.uint8),
        "long": np.repeat((np.arange(10_000) % 251).astype(np.uint8)[None, :, None], 3, axis=2),
    }[name]


@pytest.mark.parametrize("name", ["one pixel", "one color", "white", "transparent", "two colors", "257 colors", "long"])
@pytest.mark.parametrize("dither", list(DITHERINGS))
def test_degenerate_images_work_with_every_dithering(report, tmp_path, name, dither):
    pixels = degenerate(name)
    source = save(pixels, tmp_path / "in.png")
    options = ("-k", 256, "--refine", 0, "--dither", dither, "--allow-larger")
    found = report(source, *options, "-o", tmp_path / "out.png")
    assert found["colors_out"] == min(256, found["colors_in"])
    if found["colors_in"] <= 256:
        assert np.array_equal(rgba(tmp_path / "out.png"), rgba(source))


@pytest.mark.parametrize("name", ["one pixel", "one color", "white", "transparent", "two colors", "257 colors", "long"])
@pytest.mark.parametrize("space", ["linear", "oklab"])
def test_degenerate_images_work_in_every_color_space(report, tmp_path, name, space):
    source = save(degenerate(name), tmp_path / "in.png")
    for n_colors in (1, 2, 256):
        out = tmp_path / f"{n_colors}.png"
        found = report(source, "-k", n_colors, "--space", space, "-o", out, "--allow-larger")
        assert found["colors_out"] == min(n_colors, found["colors_in"])


def test_dark_colors_of_nearly_transparent_pixels_do_not_enter_the_palette(report, tmp_path):
    """Colors are premultiplied, so the weight of a color below a soft edge is its visibility."""
    row, column = np.mgrid[:64, :64]
    distance = np.hypot(row - 31.5, column - 31.5)
    alpha = np.clip((28 - distance) * 32, 0, 255)
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[..., 3] = alpha
    report(save(pixels, tmp_path / "in.png"), "-k", 8, "-o", tmp_path / "out.png")
    after = rgba(tmp_path / "out.png")
    visible = after[..., 3] > 0
    assert not visible[pixels[..., 3] == 0].any()
    assert (after[visible][:, :3] >= 250).all()
    assert np.abs(after[..., 3].astype(int) - pixels[..., 3]).max() < 24
