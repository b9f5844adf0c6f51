"""Hostile files, names, folders and signals; in a subprocess where memory, permissions or signals matter."""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import assert_one_line, files, noise, rgba, save
from PIL import Image

import gpukmeans
import gpukmeans_cli
import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.main import main

ROOTS = [str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)]
COMMAND = (sys.executable, "-m", "gpukmeans_cli.main", "compress", "--device", "cpu")

# Import the code under test, not an installed copy.
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS), "OMP_NUM_THREADS": "1"}

# Peak memory of a subprocess, measured by a small parent: a fork of this process would count the memory of this one.
MEASURED = """
import json, resource, subprocess, sys
run = subprocess.run(sys.argv[1:], capture_output=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([run.returncode, run.stdout.decode(), run.stderr.decode(), peak]))
"""
GIGABYTE = 1 << 30

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def before_the_summary(err):
    """The lines of stderr about single files."""
    lines = err.splitlines()
    summary = "files done" if isinstance(err, str) else b"files done"
    return lines[: next(index for index, line in enumerate(lines) if summary in line)]


def start(*args, cwd, **options):
    return subprocess.run(
        args, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False, **options
    )


@pytest.fixture
def photo(tmp_path):
    return save(noise(11, 17, 3), tmp_path / "photo.png")


def test_subprocesses_run_the_code_under_test(tmp_path):
    program = "import importlib.util as u; print(u.find_spec('gpukmeans').origin, u.find_spec('gpukmeans_cli').origin)"
    origins = start(sys.executable, "-c", program, cwd=tmp_path).stdout.decode().split()
    assert origins == [gpukmeans.__file__, gpukmeans_cli.__file__]


# Decompression bombs


HALF_A_GIGABYTE = 1 << 29


def packed_zeros(n_bytes):
    """Deflated zeros, whose size is a thousandth of the zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(n_bytes >> 20)]
    return b"".join([*parts, packer.flush()])


def png_of(width, height, *chunks):
    return png.png_file(png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks)


def frame_control(number, width, height):
    return png.chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))


def apng_of(width, height, n_frames, control, first, second):
    count = png.chunk(b"acTL", struct.pack(">II", n_frames, 0))
    frames = png.chunk(b"IDAT", first), frame_control(1, *control), png.chunk(b"fdAT", struct.pack(">I", 2) + second)
    return png_of(width, height, count, frame_control(0, *control), *frames)


def gif_of(width, height, *frames):
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    parts = [
        b"\x21\xf9\x04\0\1\0\0\0," + struct.pack("<HHHHB", *rectangle, 0) + b"\2\2\x44\1\0" for rectangle in frames
    ]
    return b"".join([head, *parts, b";"])


def webp_of(width, height, n_frames, folder):
    """An animation of this canvas size, in which each frame draws one pixel."""
    with_head = save(noise(1, 1, 3), folder / "one.webp", lossless=True)
    pixel = with_head.read_bytes()[12:]
    with_head.unlink()

    def chunk(kind, body):
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    canvas = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frames = chunk(b"ANMF", bytes(12) + b"\x0a\0\0\0" + pixel) * n_frames
    body = b"WEBP" + chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of(side, tile, data):
    """A grey TIFF in deflated tiles of this side."""
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 0, 325: len(data)}
    tags[324] = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


@linux_only
def test_a_decompression_bomb_is_rejected_before_it_is_unpacked(tmp_path):
    pixel, bomb = zlib.compress(b"\0\1\2\3"), packed_zeros(HALF_A_GIGABYTE)
    text = [png.chunk(b"zTXt", b"k%d\0\0" % number + packed_zeros(1 << 20)) for number in range(200)]
    too_many = "pixels"
    bombs = {
        "huge.png": (png_of(60_000, 60_000, png.chunk(b"IDAT", bomb)), too_many),
        "canvas.png": (apng_of(12_000, 12_000, 2, (1, 1), pixel, pixel), "288000000 pixels in 2 frames"),
        "screen.gif": (gif_of(65_535, 65_535, (0, 0, 1, 1)), too_many),
        "frame.gif": (gif_of(1, 1, (0, 0, 65_535, 65_535)), too_many),
        "later.gif": (gif_of(1, 1, (0, 0, 1, 1), (0, 0, 65_535, 65_535)), too_many),
        "corner.gif": (gif_of(1, 1, (65_535, 65_535, 1, 1)), too_many),
        "frames.gif": (gif_of(1, 1, (0, 0, 1, 1), *[(0, 0, 10_000, 10_000)] * 3), "300004096 pixels in 4 frames"),
        "canvas.gif": (gif_of(12_000, 12_000, *[(0, 0, 1, 1)] * 3), "432000000 pixels in 3 frames"),
        "screen.webp": (webp_of(16_384, 16_384, 2, tmp_path), too_many),
        "canvas.webp": (webp_of(10_000, 10_000, 4, tmp_path), "400000000 pixels in 4 frames"),
        "tile.tiff": (tiff_of(64, 40_000, packed_zeros(100 << 20)), "1600000000 pixels in a tile"),
    }
    # Images of one pixel. The decoder stops after the pixel, and leaves out chunks that would unpack to too many bytes.
    harmless = {
        "text.png": png_of(1, 1, png.chunk(b"zTXt", b"k\0\0" + bomb), png.chunk(b"IDAT", pixel)),
        "texts.png": png_of(1, 1, *text, png.chunk(b"IDAT", pixel)),
        "profile.png": png_of(1, 1, png.chunk(b"iCCP", b"k\0\0" + bomb), png.chunk(b"IDAT", pixel)),
        "count.png": apng_of(1, 1, 2_000_000_000, (1, 1), pixel, pixel),
        "pixels.png": png_of(1, 1, png.chunk(b"IDAT", bomb)),
        "frames.png": apng_of(1, 1, 2, (1, 1), bomb, bomb),
        "outside.gif": gif_of(1, 1, (0, 0, 1, 1), (65_535, 65_535, 1, 1)),
    }
    for name, (data, _) in bombs.items():
        (tmp_path / name).write_bytes(data)
    for name, data in harmless.items():
        (tmp_path / name).write_bytes(data)
    before = files(tmp_path)
    # PNG and GIF of one stem would be written to one file.
    names = [*bombs, *harmless]
    for name in names:
        (tmp_path / name).rename(tmp_path / name.replace(".", "-"))
    names = [name.replace(".", "-") for name in names]
    answer = start(sys.executable, "-c", MEASURED, *COMMAND, *names, cwd=tmp_path)
    code, out, err, peak = json.loads(answer.stdout)
    assert code == 1
    assert [re.split(" -> |: ", line)[0] for line in out.splitlines()] == names[len(bombs) :]
    complaints = before_the_summary(err)
    assert "count-png: took the default image" in complaints.pop()
    assert len(complaints) == len(bombs), err
    for name, (_, part), complaint in zip(names, bombs.values(), complaints, strict=False):
        assert complaint.startswith(f"gpukmeans: {name}: ")
        assert part in complaint
    assert peak < GIGABYTE
    assert len(files(tmp_path)) == len(before) + out.count("-256.")


@linux_only
def test_a_longer_animation_takes_no_more_memory(tmp_path):
    def peak_of(n_frames):
        boxes = [(number, number, 1, 1) for number in range(n_frames)]
        (tmp_path / "a.gif").write_bytes(gif_of(1000, 1000, *boxes))
        answer = start(sys.executable, "-c", MEASURED, *COMMAND, "-f", "a.gif", cwd=tmp_path)
        code, _, err, peak = json.loads(answer.stdout)
        assert code == 0, err
        return peak

    assert peak_of(88) - peak_of(8) < 60e6  # bytes; the RGB pixels of 80 frames would take 240e6


# Damaged files


def test_each_damaged_file_gives_one_line_and_intact_files_are_compressed(tmp_path):
    pixels = noise(24, 24, 3)
    for suffix in ("png", "gif", "webp", "jpg", "bmp", "ppm"):
        path = save(pixels, tmp_path / f"{suffix}.{suffix}")
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    save(pixels, tmp_path / "z.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    answer = start(*COMMAND, *names, "--dither", "none", cwd=tmp_path)
    assert answer.returncode == 1
    assert [line.split(b" -> ")[0] for line in answer.stdout.splitlines()] == [b"z.png"]
    assert b"Traceback" not in answer.stderr
    assert [line.split(b": ")[1].decode() for line in before_the_summary(answer.stderr)] == names[:-1]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "z-256.png"}


def test_an_indexed_image_without_a_palette_is_rejected(command, tmp_path):
    header = png.chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0))
    path = tmp_path / "bare.png"
    path.write_bytes(png.png_file(header, png.chunk(b"IDAT", zlib.compress(b"\0\0\1"))))
    code, out, err = command("compress", path)
    assert (code, out) == (1, "")
    assert_one_line(err, "bare.png", "no palette")


@pytest.mark.parametrize("compression", ["group4", "tiff_lzw", "tiff_adobe_deflate"])
def test_libtiff_prints_nothing_besides_the_error_line(compression, capfd, tmp_path):
    mode = "1" if compression == "group4" else "L"
    path = tmp_path / "photo.tif"
    Image.fromarray(noise(24, 24)).convert(mode).save(path, compression=compression)
    data = bytearray(path.read_bytes())
    # The strip may lie before or after the tags; this damages pixels and no tag.
    with Image.open(path) as image:
        at = image.tag_v2[273][0]
    data[at + 4 : at + 12] = b"\xff\x55\0\xff\x12\xff\0\x80"
    path.write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        main(["compress", str(path)])
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == caught.value.code, lines


# Names


STRANGE = [
    "%s%n.png",
    "[bold]red[_bold].png",
    "\N{BALLOON}.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe.png",
    "\x1b[31mred\x1b[0m.png",
    "a\tb\\n.png",
    "$(touch hacked) & `x` 'y' \"z\".png",
    "{0}{name}.png",
    "m" * 240 + ".png",
    ".png",
    "~.png",
]


@linux_only
def test_strange_names_give_one_printable_line_each_in_reports_and_errors(tmp_path):
    for name in STRANGE:
        save(noise(4, 4, 3), tmp_path / name, format="PNG")
    answer = start(*COMMAND, "-k", "2", "--", *STRANGE, cwd=tmp_path, umask=0o077)
    assert (answer.returncode, before_the_summary(answer.stderr)) == (0, [])
    assert "[bold]red[_bold].png -> [bold]red[_bold]-2.png: " in answer.stdout.decode()
    written = set(tmp_path.iterdir()) - {tmp_path / name for name in STRANGE}
    assert len(written) == len(STRANGE)
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    again = start(*COMMAND, "-q", "-k", "2", "--", *STRANGE, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, b"")
    for lines in (answer.stdout, again.stderr):
        lines = lines.decode().split("\n")
        assert len(lines) == len(STRANGE) + 1
        assert all(line.isprintable() for line in lines)


# Inputs that are no regular files


@linux_only
def test_an_input_that_is_no_image_file_gives_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    messages = {
        "folder": "is a folder",
        ".": "is a folder",
        "": "is a folder",
        "missing.png": "does not exist",
        "dangling.png": "does not exist",
        "empty.png/below.png": "does not exist",
        "empty.png": "is empty",
        "loop.png": "cannot be opened",
        "socket": "cannot be opened",
        "pipe": "is empty",
        "/dev/null": "is empty",
        "/dev/zero": "is not an image",
        "/proc/self/mem": "cannot be decoded",
        "x" * 300 + ".png": "cannot be opened",
    }
    Path("folder").mkdir()
    Path("empty.png").touch()
    Path("dangling.png").symlink_to("nowhere")
    Path("loop.png").symlink_to("loop.png")
    os.mkfifo("pipe")
    before = files(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for name, message in messages.items():
            if name == "pipe":  # whose writer writes nothing
                threading.Thread(target=Path("pipe").write_bytes, args=[b""], daemon=True).start()
            code, out, err = command("compress", "-o", "few.png", name)
            assert (code, out) == (1, ""), name
            assert_one_line(err, message)
    assert files(tmp_path) == before


# Outputs that are links


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_output_that_is_a_link_to_a_folder_gives_one_line(command, photo, tmp_path, force):
    (tmp_path / "folder").mkdir()
    (tmp_path / "few.png").symlink_to("folder")
    code, out, err = command("compress", photo, "-o", tmp_path / "few.png", *force)
    assert (code, out) == (1, "")
    assert_one_line(err, "few.png is a folder")
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "few.png").is_symlink()


@pytest.mark.parametrize("link_target", ["few.png", "nowhere.png", "photo.png"])
def test_an_output_that_is_a_link_is_overwritten_only_with_force(command, photo, tmp_path, link_target):
    output = tmp_path / "few.png"
    output.symlink_to(link_target)
    before = photo.read_bytes()
    code, out, err = command("compress", photo, "-k", "2", "-o", output)
    assert (code, out) == (1, "")
    assert_one_line(err, "few.png already exists; use --force")
    assert (os.readlink(output), photo.read_bytes()) == (link_target, before)
    assert command("compress", photo, "-k", "2", "-o", output, "--force")[0] == 0
    # A link to itself has no target to overwrite, so the link is replaced.
    assert output.is_symlink() == (link_target != "few.png")
    assert len(np.unique(rgba(output).reshape(-1, 4), axis=0)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"few.png", "photo.png", link_target})


# Folders and disks that cannot be written


def unprivileged():
    """The command prefix with which file permissions apply, also for root. Skips the test if there is none."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("permissions do not apply to root, and there is no setpriv")
    capabilities = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("permissions do not apply to root, and root cannot drop capabilities")
    return prefix


def lines_of(tmp_path, modes, *names):
    """The error line of each input while these modes apply. Checks that nothing is written."""
    before = files(tmp_path)
    prefix = unprivileged()
    for name, mode in modes.items():
        (tmp_path / name).chmod(mode)
    try:
        answer = start(*prefix, *COMMAND, "-q", *names, cwd=tmp_path)
    finally:
        for name in modes:
            (tmp_path / name).chmod(0o755)
    lines = answer.stderr.decode().splitlines()
    assert (answer.returncode, answer.stdout, len(lines)) == (1, b"", len(names)), lines
    assert files(tmp_path) == before
    return lines


@linux_only
def test_each_file_without_permissions_gives_one_line_and_other_files_are_tried(tmp_path):
    modes = {"closed": 0, "unlisted": 0o111, "fixed": 0o555}
    for name in modes:
        (tmp_path / name).mkdir()
        save(noise(20, 20) & 128, tmp_path / name / "photo.png")  # of two colors, so that it gets smaller
    (tmp_path / "unlisted" / "photo.png").unlink()
    save(noise(4, 4, 3), tmp_path / "unread.png")
    inputs = ["unread.png", *(f"{name}/photo.png" for name in modes), "missing.png"]
    unread, closed, unlisted, fixed, missing = lines_of(tmp_path, modes | {"unread.png": 0}, *inputs)
    assert closed.endswith(
        "closed/photo-256.png cannot be written, because its folder is read-only; choose another folder"
    )
    assert unlisted.endswith("unlisted/photo.png: does not exist; check the path")
    assert fixed.endswith(
        "fixed/photo-256.png cannot be written, because its folder is read-only; choose another folder"
    )
    assert unread == "gpukmeans: unread.png: cannot be read; check its permissions"
    assert missing == "gpukmeans: missing.png: does not exist; check the path"


@linux_only
def test_a_full_disk_gives_one_line_and_no_file(command, small_disk, tmp_path):
    photo = save(noise(200, 200, 3), tmp_path / "photo.png")
    options = ("--dither", "none", "--max-iter", "1", "--refine", "0")
    args = ("compress", photo, *options, "-o", small_disk / "few.png")
    code, out, err = command(*args)
    assert (code, out) == (1, "")
    assert_one_line(err, "few.png cannot be written, the disk is full")
    assert list(small_disk.iterdir()) == []
    (small_disk / "few.png").write_bytes(b"old")
    assert command(*args, "--force")[0] == 1
    assert files(small_disk) == {small_disk / "few.png": b"old"}
    assert command("compress", photo, "-k", "2", "-o", small_disk / "two.png")[0] == 0


# Signals


@linux_only
@pytest.mark.parametrize(("step", "force"), [("link", []), ("replace", ["--force"])])
def test_a_process_killed_before_the_rename_leaves_the_old_file(photo, tmp_path, step, force):
    output = tmp_path / "photo-2.png"
    if force:
        output.write_bytes(b"old")
    program = (
        "import os, signal, sys; from gpukmeans_cli.main import main; "
        f"os.{step} = lambda *paths: os.kill(os.getpid(), signal.SIGKILL); main(sys.argv[1:])"
    )
    answer = start(sys.executable, "-c", program, "compress", "photo.png", "-k", "2", *force, cwd=tmp_path)
    assert answer.returncode == -signal.SIGKILL
    assert output.exists() == bool(force)
    assert not force or output.read_bytes() == b"old"
    # The temporary file that remains is hidden, and patterns such as *.png do not match it.
    (left,) = set(tmp_path.iterdir()) - {photo, output}
    assert left.name.startswith(".")
    assert left.suffix == ".tmp"
