"""Animations before and after compression in Chromium: frames, delays and plays. One session decodes all files."""

import base64
import io
import itertools
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.animations import (
    GIF_COLORS,
    GREEN,
    PNG_MAGIC,
    chunk,
    gif_frame,
    gif_image,
    gif_loop,
    gif_of,
    handmade_apng,
    read,
)
from helpers.browser import start_chromium
from PIL import Image

from gpukmeans_cli.compression.pipeline import Settings, compress_image

# Frames in base64, durations in microseconds, repetitions and sides of each file.
DECODE = """
const [files, done] = arguments;
const base64 = bytes => btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
const decode = async ([type, text]) => {
    const data = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const decoder = new ImageDecoder({type, data});
    await decoder.tracks.ready;
    await decoder.completed;
    const {frameCount, repetitionCount} = decoder.tracks.selectedTrack;
    const found = {frames: [], durations: [], repetitions: isFinite(repetitionCount) ? repetitionCount : null};
    for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
        const {image} = await decoder.decode({frameIndex});
        const [width, height] = found.size = [image.displayWidth, image.displayHeight];
        const context = new OffscreenCanvas(width, height).getContext('2d');
        context.drawImage(image, 0, 0);
        found.frames.push(base64(context.getImageData(0, 0, width, height).data));
        found.durations.push(image.duration);
        image.close();
    }
    return found;
};
Promise.all(files.map(file => decode(file).catch(error => String(error)))).then(done);
"""
TYPES = {".gif": "image/gif", ".png": "image/png", ".webp": "image/webp"}
N_EACH = 16
NAMES = [f"{number}{suffix}" for suffix in TYPES for number in range(N_EACH)]


@dataclass(frozen=True)
class Shown:
    """What Chromium shows of a file."""

    frames: np.ndarray
    durations: list[float]
    plays: int


def decode_in_browser(browser, paths):
    """Each file as shown, by path."""
    files = [(TYPES[path.suffix], base64.b64encode(path.read_bytes()).decode()) for path in paths]
    shown = {}
    for path, found in zip(paths, browser.execute_async_script(DECODE, files), strict=True):
        assert isinstance(found, dict), f"{path.name}: {found}"
        width, height = found["size"]
        frames = [np.frombuffer(base64.b64decode(frame), dtype=np.uint8) for frame in found["frames"]]
        plays = 0 if found["repetitions"] is None else found["repetitions"] + 1
        shown[path] = Shown(np.stack(frames).reshape(-1, height, width, 4), found["durations"], plays)
    return shown


def random_gif(rng):
    """Frames of any size and place, with and without transparency, control, local colors and interlace."""
    width, height = rng.integers(1, 20, 2).tolist()
    blocks = []
    for number in range(rng.integers(2, 7)):
        left, top = rng.integers(0, (width, height)).tolist() if rng.random() < 0.7 else (0, 0)
        sides = (height, width) if rng.random() < 0.3 else rng.integers(1, 20, 2)
        pixels = rng.integers(0, 4, sides, dtype=np.uint8)
        disposal, delay = rng.integers(0, 5), int(rng.choice([0, 1, 2, 5, 10, 77]))
        transparent = int(rng.integers(0, 4)) if rng.random() < 0.6 else None
        blocks.append(gif_frame(left, top, pixels, disposal=int(disposal), delay=delay, transparent=transparent))
        if rng.random() < 0.3:
            colors = rng.permutation(np.frombuffer(GIF_COLORS, dtype=np.uint8)).tobytes()
            blocks.append(gif_image(left, top, pixels[: height + 2], colors=colors))
        if number == 0 and rng.random() < 0.7:
            name = b"ANIMEXTS1.0" if rng.random() < 0.3 else b"NETSCAPE2.0"
            blocks.insert(int(rng.integers(0, 2)), gif_loop(int(rng.choice([0, 1, 2, 100])), name=name))
    return gif_of(width, height, *blocks)


def random_boxes(rng, width, height, step=1):
    """The whole canvas, then boxes in it whose offsets are multiples of `step`: left, top, width, height."""
    yield 0, 0, width, height
    while True:
        left, top = (int(rng.integers(0, side)) // step * step for side in (width, height))
        yield left, top, int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1))


def random_colors(rng, height, width, *, translucent):
    """RGBA pixels of few colors, some of them transparent."""
    colors = np.array([*rng.integers(0, 256, (5, 4)), [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.uint8)
    colors[:5, 3] = 150 if translucent else 255
    return colors[rng.integers(0, len(colors), (height, width))]


def random_apng(rng, *, translucent):
    """Frames of RGBA or indices below 8 bits, with or without a hidden default image."""
    width, height = rng.integers(1, 20, 2).tolist()
    n_frames, bits = int(rng.integers(2, 7)), int(rng.choice([1, 2, 4]))
    indexed = rng.random() < 0.4 and not translucent
    header = struct.pack(">IIBBBBB", width, height, *((bits, 3) if indexed else (8, 6)), 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"acTL", struct.pack(">II", n_frames, int(rng.choice([0, 1, 2, 9]))))]
    if indexed:
        parts.append(chunk(b"PLTE", rng.integers(0, 256, 3 << bits, dtype=np.uint8).tobytes()))
        parts.append(chunk(b"tRNS", b"\0" if rng.random() < 0.5 else b"\xff"))

    def packed(width, height):
        if indexed:
            rows = np.packbits(rng.integers(0, 2, (height, width * bits), dtype=np.uint8), axis=1)
        else:
            rows = random_colors(rng, height, width, translucent=translucent).reshape(height, -1)
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))

    hidden = rng.random() < 0.4
    if hidden:
        parts.append(chunk(b"IDAT", packed(width, height)))
    sequence_number = 0
    for number, (left, top, *sides) in enumerate(itertools.islice(random_boxes(rng, width, height), n_frames)):
        # Blending of translucent colors is rounded differently, so they replace what is below.
        operations = rng.integers(0, 3), 0 if translucent else rng.integers(0, 2)
        delay = [(1, 10), (3, 100), (0, 100), (20, 1000), (7, 0)][rng.integers(0, 5)]
        box = struct.pack(">IIIIIHHBB", sequence_number, *sides, left, top, *delay, *operations)
        parts.append(chunk(b"fcTL", box))
        sequence_number += 1
        if number or hidden:
            parts.append(chunk(b"fdAT", struct.pack(">I", sequence_number) + packed(*sides)))
            sequence_number += 1
        else:
            parts.append(chunk(b"IDAT", packed(*sides)))
    return b"".join([PNG_MAGIC, *parts, chunk(b"IEND", b"")])


def random_webp(rng, *, translucent):
    """Lossless frames in boxes, which Pillow cannot write."""
    width, height = rng.integers(1, 20, 2).tolist()

    def riff(kind, body):
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    def three_bytes(*numbers):
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    background = bytes([1, 2, 3, 255])  # ignored by browsers
    parts = [
        riff(b"VP8X", struct.pack("<I", 0x12) + three_bytes(width - 1, height - 1)),
        riff(b"ANIM", background + struct.pack("<H", int(rng.choice([0, 1, 2, 9])))),
    ]
    boxes = random_boxes(rng, width, height, step=2)
    for left, top, *sides in itertools.islice(boxes, int(rng.integers(2, 7))):
        file = io.BytesIO()
        pixels = random_colors(rng, sides[1], sides[0], translucent=translucent)
        Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
        data = file.getvalue()
        stored = data[data.index(b"VP8L") :]
        flags = int(rng.integers(0, 2)) | (2 if translucent else 2 * int(rng.integers(0, 2)))  # clear, do not blend
        duration = int(rng.choice([0, 20, 100, 770]))
        header = three_bytes(left // 2, top // 2, sides[0] - 1, sides[1] - 1, duration) + bytes([flags])
        parts.append(riff(b"ANMF", header + stored))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def random_file(name):
    number, suffix = name.split(".")
    rng = np.random.default_rng([int(number), *suffix.encode()])
    if suffix == "gif":
        return random_gif(rng)
    return (random_apng if suffix == "png" else random_webp)(rng, translucent=int(number) % 4 == 3)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with an empty page."""
    page = tmp_path_factory.mktemp("page") / "empty.html"
    page.touch()
    with start_chromium() as browser:
        browser.get(page.as_uri())
        yield browser


def write_files(folder):
    paths = [folder / name for name in NAMES]
    for path in paths:
        path.write_bytes(random_file(path.name))
    return paths


# All files in one test, since tests may run in several processes, each of which would start Chromium.
def test_chromium_shows_the_same_before_and_after(browser, tmp_path):
    (tmp_path / "hidden.png").write_bytes(handmade_apng((3, 3), [((1, 1, 2, 2), (0, 0), GREEN)], default_image=True))
    (tmp_path / "uncovered.gif").write_bytes(gif_of(8, 8, gif_image(2, 2, np.zeros((3, 3), dtype=np.uint8))))
    stills = [tmp_path / "hidden.png", tmp_path / "uncovered.gif"]
    settings = Settings(n_colors=256, device=torch.device("cpu"), allow_larger=True)
    pairs = []
    for path in write_files(tmp_path) + stills:
        for suffix in (".png",) if path not in stills and is_translucent(path) else (".png", ".gif"):
            output = path.with_name(f"{path.name}-small{suffix}")
            compress_image(path, output, settings)
            pairs.append((path, output))
    shown = decode_in_browser(browser, [*dict(pairs), *(output for _, output in pairs)])
    different = {
        output.name: [
            key
            for key in (("frames",) if path in stills else ("frames", "durations", "plays"))
            if not np.array_equal(getattr(shown[path], key), getattr(shown[output], key))
        ]
        for path, output in pairs
    }
    assert {name: keys for name, keys in different.items() if keys} == {}
    assert len(pairs) >= 80


def is_translucent(path):
    return bool((read(path).frames[..., 3] % 255).any())


def test_the_generated_files_cover_disposal_transparency_and_plays(tmp_path):
    paths = write_files(tmp_path)
    files = [read(path) for path in paths]
    assert {0, 1, 2, 3} <= {file.plays for file in files}
    assert sum(file.frames[..., 3].min() == 255 for file in files) < len(files) / 2
    assert sum(map(is_translucent, paths)) >= 6
    assert sum(len(set(file.durations)) > 1 for file in files) > len(files) / 2
