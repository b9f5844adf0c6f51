"""Damaged files of every format that Pillow writes, in one run with a good file each."""

import io
import re
import struct
import warnings

import numpy as np
import pytest
from helpers.image_files import assert_one_line, noise, save
from PIL import Image

from gpukmeans_cli.images import palette_report

Image.init()
N_DAMAGES = 50


def saved(kind, mode="RGBA", **options):
    """The bytes of a small image of this format; None if Pillow cannot write that."""
    pixels = noise(6, 8, 4) & 0xF0
    image = Image.fromarray(pixels).convert("RGB").convert(mode)
    data = io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            image.save(data, kind, **options)
    except (OSError, ValueError, KeyError):
        return None
    return data.getvalue()


def saved_in_some_mode(kind):
    return next(filter(None, (saved(kind, mode) for mode in ("RGBA", "RGB", "P", "1", "F"))), None)


def animated(kind):
    frames = [Image.fromarray(noise(6, 8, 4, seed=seed)) for seed in range(3)]
    return saved(kind, save_all=True, append_images=frames, duration=50)


# BUFR, GRIB, HDF5 and WMF need plugins that are not part of Pillow.
WRITTEN = {kind: data for kind in sorted(Image.SAVE) if (data := saved_in_some_mode(kind)) is not None}
CASES = WRITTEN | {f"{kind} animated": animated(kind) for kind in ("GIF", "PNG", "WEBP")}


def damaged(data, number):
    """The bytes cut off, with flipped bits, or with a range of zeros. Each third, most damages are in the headers."""
    rng = np.random.default_rng(number)
    values = np.frombuffer(data, np.uint8).copy()
    position = int(len(data) * rng.random() ** (1 + number % 3))
    match number % 5:
        case 0:
            return values[:position].tobytes()
        case 1:
            values[position : position + 1 + rng.integers(24)] = 0
        case _:
            values[position] ^= np.uint8(1 << rng.integers(8) if number % 2 else 255)
    return values.tobytes()


def test_every_format_that_pillow_writes_is_damaged():
    assert {"AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "SPIDER", "TGA", "TIFF", "WEBP"} <= set(
        CASES
    )
    assert len(WRITTEN) >= 20


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_ends_in_one_line_and_every_good_file_is_written(command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for number in range(N_DAMAGES):
        (tmp_path / f"damaged-{number:02}").write_bytes(damaged(CASES[name], number))
    good = [save(noise(3, 4, 3), tmp_path / f"{place}.png").name for place in ("before", "zafter")]
    inputs = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "two.hex").write_text("#000 #fff")  # given colors, as clustering takes most of the time
    options = [
        "--palette",
        "two.hex",
        "--dither",
        "none",
        "--jobs",
        1,
        "--device",
        "cpu",
        "--max-pixels",
        4096,
        "-d",
        "out",
    ]
    code, out, err = command("compress", *inputs, *options)
    done = [line.split(" -> ")[0] for line in out.splitlines()]
    failed = [
        match[1] for line in err.splitlines() if (match := re.fullmatch(r"gpukmeans: (\S+): (?!took the).+", line))
    ]
    assert sorted(done + [name for name in failed if name in inputs]) == inputs, err
    assert set(good) <= set(done)
    assert all(line.startswith("gpukmeans: ") for line in err.splitlines()), err
    assert "bug of gpukmeans" not in err
    assert len(list((tmp_path / "out").iterdir())) == len(done)
    assert code == (1 if len(done) < len(inputs) else 0)


@pytest.fixture
def closing(tmp_path):
    """A valid file of a format whose plugin closes the file, which makes every later read raise."""
    path = tmp_path / "closing.png"
    path.write_bytes(b"FTEX" + struct.pack("<i2i2i2ii", 0, 1, 1, 1, 1, 1, 32, 3) + bytes(9))
    return path


@pytest.mark.parametrize(
    ("args", "code", "n_done"),
    [
        (("compress", "GOOD", "BAD", "GOOD2", "-d", "out"), 1, 2),
        (("compress", "GOOD", "BAD", "GOOD2", "-d", "out", "--shared-palette"), 1, 2),
        (("compress", "GOOD", "-d", "out", "--palette", "BAD"), 2, 0),
        (("palette", "GOOD", "BAD", "GOOD2", "--json"), 1, 2),
        (("palette", "GOOD", "BAD", "GOOD2", "--json", "--shared"), 1, 1),
        (("compare", "GOOD", "BAD", "--no-sheet"), 1, 0),
        (("report", "BAD", "-o", "page.html"), 1, 0),
        (("demo", "BAD", "--folder", "out"), 1, 0),
    ],
)
def test_every_command_reports_a_file_that_cannot_be_read_in_one_line(
    command, closing, tmp_path, monkeypatch, args, code, n_done
):
    monkeypatch.chdir(tmp_path)
    paths = {"GOOD": save(noise(3, 4, 3), tmp_path / "a.png"), "GOOD2": save(noise(3, 4, 3), tmp_path / "z.png")}
    result, out, err = command(*(({**paths, "BAD": closing}).get(arg, arg) for arg in args))
    assert result == code
    assert "closing.png: cannot be decoded (" in err
    assert all(line.startswith("gpukmeans: ") for line in err.splitlines()), err
    assert sum("error" not in line for line in out.splitlines()) == n_done


def test_an_unexpected_exception_ends_the_palette_of_its_file_only(command, tmp_path, monkeypatch):
    count = palette_report.count_image

    def fail_for_one(path, *args, **options):
        if path.stem == "b":
            raise ZeroDivisionError("by zero")
        return count(path, *args, **options)

    monkeypatch.setattr(palette_report, "count_image", fail_for_one)
    paths = [save(noise(3, 4, 3), tmp_path / f"{name}.png") for name in "abc"]
    code, out, err = command("palette", *paths, "--json")
    assert (code, len(out.splitlines())) == (1, 3)
    assert_one_line(err, "b.png: failed by a bug of gpukmeans (ZeroDivisionError: by zero)")
