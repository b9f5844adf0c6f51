"""The compression of damaged and random files, in process: a valid image, or a one-line error and no file."""

import contextlib
import dataclasses
import io
import itertools
import signal
import struct
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers.animations import read_animation
from hypothesis import given, settings
from PIL import Image, PngImagePlugin

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans.images.colorspace import COLOR_SPACES
from gpukmeans.images.dithering import DITHERINGS
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.formats.palette_files import read_palette
from gpukmeans_cli.formats.reading import as_rgba, read_image
from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.system.atomic_files import ImageError

SETTINGS = Settings(
    n_colors=5,
    device=torch.device("cpu"),
    allow_larger=True,
    # Keeps files with wrong sizes cheap, even if the size is accepted.
    max_pixels=1 << 17,
    clustering={"init": "random", "refine": 0, "max_iter": 2},
)

# Mapping to given colors takes a fifth of the time of clustering, and reads and writes the same files.
FIVE_COLORS = np.array([[0, 0, 0], [40, 40, 90], [230, 130, 120], [60, 90, 60], [255, 255, 255]], dtype=np.uint8)


# Checks of every file


class Hang(BaseException):
    """A timeout. A BaseException, since an Exception inside a decoder becomes an ImageError."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all cases of one property. Each case leaves only its source there."""
    return tmp_path_factory.mktemp("cases")


@contextlib.contextmanager
def ten_seconds(what):
    """Raises `Hang` after ten seconds. pytest-timeout limits only whole tests, which take up to 40 seconds for hundreds
    of files, and Hypothesis catches its timeout and then repeats the example, without a limit.
    """

    def time_out(*_):
        raise Hang(what)

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def compresses(data, folder, what, suffix=".png", **changes):
    """Whether the file is compressed to a valid image. Otherwise checks for a one-line error and no file."""
    options = dataclasses.replace(SETTINGS, **changes)
    source, output = folder / "source", folder / f"output{suffix}"
    source.write_bytes(data)
    message, outcome = None, None
    try:
        with ten_seconds(what):
            outcome = compress_image(source, output, options)
    except ImageError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    if outcome is None:
        assert_one_line_message(message, what)
        assert list(folder.iterdir()) == [source], what
        return False
    assert sorted(folder.iterdir()) == [output, source], what
    check_picture(output, outcome.report, options, what)
    assert not outcome.report.kept or output.read_bytes() == data, what
    output.unlink()
    return True


def assert_one_line_message(message, what):
    assert message, what
    assert message.strip(), what
    assert len(message.splitlines()) == 1, what


def check_picture(path, report, options, what):
    with Image.open(path) as image:
        image.load()
        assert image.size == (report.width, report.height), what
    animation = read_animation(path, max_pixels=options.max_pixels)
    stored = [read_image(path).pixels] if animation is None else animation.frames
    frames = np.stack([as_rgba(frame) for frame in stored])
    assert frames.shape[:3] == (report.frames, report.height, report.width), what
    # One uint32 per pixel: sorting takes a tenth of the time.
    visible = np.unique(np.ascontiguousarray(frames).view("<u4")) >> 24 != 0
    n_colors = np.count_nonzero(visible) + (not visible.all())
    limit = 256 if options.palette is not None else options.n_colors
    assert n_colors <= max(report.colors_out, 1) <= (report.colors_in if report.kept else limit), what


# Images to be damaged


def saved(image, kind, **options):
    data = io.BytesIO()
    image.copy().save(data, kind, **options)
    return data.getvalue()


def animation_frames(n_frames=3):
    pixels = draw_sample(30, 20)
    return [Image.fromarray(np.roll(pixels, 3 * number, axis=1)) for number in range(n_frames)]


def animated(kind, frames, **options):
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=[40, 70, 0], loop=2, **options)


def exif():
    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x011A] = 6, "balloons over a lake", 300.0
    tags.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    return tags.tobytes()


def text_chunks():
    """Text chunks of a PNG, plain and compressed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "balloons")
    info.add_text("Comment", "over a lake " * 20, zip=True)
    info.add_itxt("Author", "日本", zip=True)
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf tiff:Orientation="6"/></x:xmpmeta>')
    return info


PROFILE = struct.pack(">I12x4s4s", 128, b"RGB ", b"XYZ ").ljust(128, b"\0")


def pictures():
    photo = Image.fromarray(draw_sample(36, 24))
    with_alpha = photo.copy()
    with_alpha.putalpha(Image.linear_gradient("L").resize(photo.size))
    indexed, grey = photo.quantize(11), photo.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    two = photo.convert("1")
    metadata = {"exif": exif(), "icc_profile": PROFILE, "dpi": (300, 72)}
    clear = [frame.quantize(8) for frame in animation_frames()]
    blended = [with_alpha.resize((30, 20)).rotate(90 * quarter) for quarter in range(3)]
    return {
        "png": saved(photo, "PNG", pnginfo=text_chunks(), **metadata),
        "png-alpha": saved(with_alpha, "PNG"),
        "png-palette": saved(indexed, "PNG", transparency=bytes([0, 128, 255, 7])),
        "png-key": saved(grey, "PNG", transparency=7),
        "png-16": saved(deep, "PNG"),
        "png-1": saved(two, "PNG"),
        "png-moving": animated("PNG", animation_frames(), **metadata),
        "png-moving-palette": animated("PNG", clear, transparency=2),
        "png-moving-alpha": animated("PNG", blended, disposal=[0, 1, 2], blend=1),
        "png-default": animated("PNG", animation_frames(), default_image=True),
        "gif": saved(indexed, "GIF", comment=b"balloons", transparency=3),
        "gif-grey": saved(grey, "GIF", interlace=True),
        "gif-moving": animated("GIF", animation_frames()),
        "gif-moving-clear": animated("GIF", clear, transparency=2, disposal=2, comment=b"over a lake"),
        "webp": saved(photo, "WEBP", quality=60, **metadata),
        "webp-lossless": saved(with_alpha, "WEBP", lossless=True),
        "webp-moving": animated("WEBP", animation_frames(), quality=50, exif=exif()),
        "webp-moving-alpha": animated("WEBP", blended, lossless=True),
        "jpeg": saved(photo, "JPEG", comment=b"balloons", **metadata),
        "jpeg-progressive": saved(photo, "JPEG", progressive=True, subsampling=2),
        "jpeg-grey": saved(grey, "JPEG"),
        "jpeg-cmyk": saved(photo.convert("CMYK"), "JPEG"),
        "tiff": saved(photo, "TIFF", **metadata),
        "tiff-lzw": saved(with_alpha, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": saved(photo, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
        "tiff-packbits": saved(indexed, "TIFF", compression="packbits"),
        "tiff-jpeg": saved(photo, "TIFF", compression="jpeg"),
        "tiff-fax": saved(two, "TIFF", compression="group4"),
        "tiff-float": saved(grey.convert("F"), "TIFF"),
        "tiff-16": saved(deep, "TIFF", big_tiff=True),
        "tiff-pages": saved(deep, "TIFF", save_all=True, append_images=[with_alpha]),
        "bmp": saved(photo, "BMP"),
        "bmp-palette": saved(indexed, "BMP"),
        "ico": saved(with_alpha, "ICO", sizes=[(16, 16), (24, 24)]),
        "ppm": saved(photo, "PPM"),
        "pgm-16": saved(deep, "PPM"),
        "pfm": saved(grey.convert("F"), "PPM"),
        "tga": saved(with_alpha, "TGA", compression="tga_rle"),
        "pcx": saved(indexed, "PCX"),
        "sgi": saved(photo, "SGI"),
        "dds": saved(with_alpha, "DDS"),
        "jpeg2000": saved(photo, "JPEG2000"),
        "msp": saved(two, "MSP"),
        "xbm": saved(two, "XBM"),
        "blp": saved(indexed, "BLP"),
        "spider": saved(grey.convert("F"), "SPIDER"),
        "mpo": saved(photo, "MPO", save_all=True, append_images=[photo]),
        "qoi": saved(photo, "QOI"),
        "avif": saved(photo, "AVIF", speed=10),
        "dib": saved(photo, "DIB"),
    }


IMAGES = pictures()


# Ways to damage


def random_offset(data, rng):
    """An offset, half of the time among the first 200 bytes."""
    return int(rng.integers(0, max(1, min(len(data), 200) if rng.random() < 0.5 else len(data))))


def flip(data, rng):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        changed[random_offset(data, rng)] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def overwrite(data, rng):
    at, length = random_offset(data, rng), int(rng.choice([1, 1, 2, 4]))
    value = rng.choice([b"\0", b"\1", b"\x7f", b"\x80", b"\xff"])
    if rng.random() < 0.3:
        return data[:at] + rng.bytes(length) + data[at + length :]
    return data[:at] + bytes(value).ljust(1, b"\0") * length + data[at + length :]


def cut_out(data, rng):
    at = random_offset(data, rng)
    return data[:at] + data[at + int(rng.choice([1, 2, 4, 12, 60])) :]


def repeat(data, rng):
    at, length = random_offset(data, rng), int(rng.choice([1, 2, 4, 12, 60]))
    return data[: at + length] + data[at:]


def insert(data, rng):
    at = random_offset(data, rng)
    return data[:at] + rng.bytes(int(rng.choice([1, 2, 4, 12]))) + data[at:]


def truncate(data, rng):
    return data[: int(rng.integers(0, len(data)))]


DAMAGES = [flip, flip, overwrite, overwrite, overwrite, cut_out, repeat, insert, truncate]


def damaged(data, rng):
    if not data:
        return rng.bytes(4)
    return DAMAGES[int(rng.integers(len(DAMAGES)))](data, rng)


# Formats split into chunks and joined again, with valid lengths and checksums, so that decoders read the damaged data


def png_pieces(data):
    return [kind + body for kind, body in png.parse_chunks(data)]


def png_file(pieces):
    return png.MAGIC + b"".join(png.chunk(piece[:4].ljust(4, b"x"), piece[4:]) for piece in pieces)


def webp_pieces(data):
    pieces, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        pieces.append(data[at : at + 4] + data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return pieces


def webp_file(pieces):
    parts = [p[:4].ljust(4) + struct.pack("<I", max(0, len(p) - 4)) + p[4:] + b"\0" * (len(p) % 2) for p in pieces]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_pieces(data):
    def end_of_blocks(at):
        while data[at]:
            at += data[at] + 1
        return at + 1

    def table(flags):
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    at = 13 + table(data[10])
    pieces = [data[:at]]
    while data[at : at + 1] != b";":
        start = at
        if data[at] == 0x21:
            at = end_of_blocks(at + 2)
        else:
            at += 10 + table(data[at + 9])
            pieces.append(data[start:at])
            start, at = at, end_of_blocks(at + 1)
        pieces.append(data[start:at])
    return [*pieces, b";"]


def jpeg_pieces(data):
    pieces, at = [], 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append(data[at : at + 2] + data[at + 4 : at + 2 + length])
        at += 2 + length
    return [*pieces, data[at:]]


def jpeg_file(pieces):
    # The length of a scan header does not include the scan data behind it.
    parts = [p if p[:2] == b"\xff\xda" else p[:2] + struct.pack(">H", len(p) & 0xFFFF) + p[2:] for p in pieces]
    return b"\xff\xd8" + b"".join(parts)


def tiff_pieces(data):
    if data[2] != 42:
        return [data[:8], data[8:16], data[16:]]
    order = "<" if data[:2] == b"II" else ">"
    (folder,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, folder)
    places = [0, folder, folder + 2, *(folder + 2 + 12 * (number + 1) for number in range(count)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


CONTAINERS: dict[str, tuple[Callable, Callable]] = {
    "png": (png_pieces, png_file),
    "webp": (webp_pieces, webp_file),
    "gif": (gif_pieces, b"".join),
    "jpeg": (jpeg_pieces, jpeg_file),
    "tiff": (tiff_pieces, b"".join),
}


def with_broken_pieces(pieces, foreign, rng):
    """Pieces of which one is removed, repeated, moved, damaged, or followed by a piece of another file."""
    pieces, first, second = list(pieces), int(rng.integers(len(pieces))), int(rng.integers(len(pieces)))
    kind = rng.random()
    if kind < 0.1:
        del pieces[first]
    elif kind < 0.2:
        pieces.insert(second, pieces[first])
    elif kind < 0.3:
        pieces[first], pieces[second] = pieces[second], pieces[first]
    elif kind < 0.4:
        pieces.insert(second + 1, foreign[int(rng.integers(len(foreign)))])
    else:
        pieces[first] = damaged(pieces[first], rng)
    return pieces


def with_changed_fields(pieces):
    """The pieces with each field of the short ones (headers, not pixels) set to its smallest and largest values."""
    for number, piece in enumerate(pieces):
        for at in range(len(piece) if len(piece) <= 30 else 0):
            for value in (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"):
                changed = piece[:at] + value + piece[at + len(value) :]
                if len(changed) == len(piece):
                    yield f"{value!r} at {at} of piece {number}", [*pieces[:number], changed, *pieces[number + 1 :]]


# The tests

FORMATS = [name for name in IMAGES if name.partition("-")[0] in CONTAINERS]
SUFFIXES = (".png", ".png", ".gif", ".webp")


def n_compressed(cases, folder):
    """The number of cases, pairs of description and file, that are compressed to an image."""
    count = 0
    for number, (what, data) in enumerate(cases):
        # One in ten is clustered, which is the default.
        changes = {} if number % 10 == 0 else {"palette": FIVE_COLORS}
        count += compresses(data, folder, what, SUFFIXES[number % len(SUFFIXES)], **changes)
    return count


@pytest.mark.parametrize("name", IMAGES)
def test_the_undamaged_images_are_compressed(name, tmp_path):
    assert n_compressed([(name, IMAGES[name])], tmp_path) == 1


@pytest.mark.parametrize("name", IMAGES)
def test_a_truncated_file_gives_an_image_or_one_error(name, tmp_path):
    data = IMAGES[name]
    ends = sorted({*range(0, min(60, len(data)), 3), *range(0, len(data), 1 + len(data) // 20), len(data) - 1})
    assert n_compressed([(f"{name}[:{end}]", data[:end]) for end in ends], tmp_path) < len(ends)


@pytest.mark.parametrize("name", IMAGES)
def test_a_file_with_changed_lost_or_added_bytes_gives_an_image_or_one_error(name, tmp_path):
    cases = [(f"{name} {seed}", damaged(IMAGES[name], np.random.default_rng(seed))) for seed in range(25)]
    assert n_compressed(cases, tmp_path) < len(cases)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_damaged_chunks_gives_an_image_or_one_error(name, tmp_path):
    split, join = CONTAINERS[name.partition("-")[0]]
    family = [data for other, data in IMAGES.items() if other.partition("-")[0] == name.partition("-")[0]]
    foreign = [piece for data in family for piece in split(data)]
    pieces = split(IMAGES[name])
    assert compresses(join(pieces), tmp_path, name)
    cases = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        broken = with_broken_pieces(pieces, foreign, rng)
        if broken and rng.random() < 0.3:
            broken = with_broken_pieces(broken, foreign, rng)
        cases.append((f"{name} {seed}", join(broken)))
    assert 0 < n_compressed(cases, tmp_path) < len(cases)


@pytest.mark.parametrize("name", ["png-moving-palette", "gif-moving-clear", "webp-moving", "tiff-lzw"])
def test_a_file_with_wrong_header_fields_gives_an_image_or_one_error(name, tmp_path):
    split, join = CONTAINERS[name.partition("-")[0]]
    cases = [(f"{name}: {what}", join(pieces)) for what, pieces in with_changed_fields(split(IMAGES[name]))]
    assert 0 < n_compressed(cases, tmp_path) < len(cases)


MAGICS = sorted({data[:length] for data in IMAGES.values() for length in (2, 4, 8, 16, 40)} | {b""})


@settings(derandomize=True, database=None, max_examples=300)
@given(magic=st.sampled_from(MAGICS), body=st.binary(max_size=300), suffix=st.sampled_from(SUFFIXES))
def test_random_bytes_give_an_image_or_one_error(magic, body, suffix, folder):
    compresses(magic + body, folder, "random bytes", suffix)


EXIFS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda order, tag, kind, count, value: (
            (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08")
            + struct.pack(f"{order}HHHII", 1, tag, kind, count, value)
            + bytes(4)
        ),
        st.sampled_from("<>"),
        st.sampled_from([0x0112, 0x011A, 0x8769, 0x8825, 0x010E]),
        st.integers(0, 14),
        st.sampled_from([0, 1, 2, 1 << 16, (1 << 32) - 1]),
        st.sampled_from([0, 1, 5, 6, 8, 9, 6 << 16, (1 << 32) - 1]),
    ),
)


@settings(derandomize=True, database=None, max_examples=60)
@given(exif=EXIFS, kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), frames=st.sampled_from([1, 2]))
def test_malformed_exif_does_not_prevent_compression(exif, kind, frames, folder):
    options = {"append_images": animation_frames(2)[1:], "save_all": True} if frames == 2 and kind != "JPEG" else {}
    data = saved(animation_frames(1)[0], kind, exif=b"Exif\0\0" + exif, **options)
    assert compresses(data, folder, f"{kind} with EXIF {exif!r}", palette=FIVE_COLORS)


# Valid images


@st.composite
def valid(draw):
    """A tiny image of any mode, in a format that supports the mode."""
    mode, kinds = draw(
        st.sampled_from(
            [
                ("1", ("PNG", "TIFF", "BMP", "GIF")),
                ("L", ("PNG", "TIFF", "BMP", "GIF", "WEBP", "TGA")),
                ("LA", ("PNG", "TIFF", "WEBP", "TGA")),
                ("P", ("PNG", "TIFF", "BMP", "GIF")),
                ("RGB", ("PNG", "TIFF", "BMP", "WEBP", "TGA", "JPEG")),
                ("RGBA", ("PNG", "TIFF", "WEBP", "TGA")),
                ("CMYK", ("TIFF", "JPEG")),
                ("YCbCr", ("TIFF", "JPEG")),
                ("LAB", ("TIFF",)),
                ("I;16", ("PNG", "TIFF")),
                ("I", ("TIFF",)),
                ("F", ("TIFF",)),
            ]
        )
    )
    size = width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    n_bytes = len(Image.new(mode, size).tobytes())
    if draw(st.booleans()):
        raw = draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    else:  # few values, like a drawing
        values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=3))
        raw = np.random.default_rng(width * height).choice(np.array(values, np.uint8), n_bytes).tobytes()
    image = Image.frombytes(mode, size, raw)
    if mode == "P":
        image.putpalette(draw(st.binary(min_size=768, max_size=768)))
    return saved(image, draw(st.sampled_from(kinds)), **({"lossless": True} if mode == "RGBA" else {}))


@settings(derandomize=True, database=None, max_examples=120)
@given(
    data=valid(),
    n_colors=st.sampled_from([1, 2, 3, 5, 16, 17, 256]),
    space=st.sampled_from(list(COLOR_SPACES)),
    dither=st.sampled_from(list(DITHERINGS)),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    suffix=st.sampled_from(SUFFIXES),
    given_colors=st.sampled_from(
        [{}, {}, {"palette": FIVE_COLORS}, {"fixed": FIVE_COLORS[:1]}, {"allow_larger": False}]
    ),
)
def test_a_valid_image_of_any_mode_is_compressed(data, n_colors, space, dither, strength, suffix, given_colors, folder):
    options = {"n_colors": n_colors, "space": space, "dither": dither, "dither_strength": strength, **given_colors}
    compressed = compresses(data, folder, f"{data!r} with {options}", suffix, **options)
    assert compressed or suffix == ".gif", "only GIF rejects some images, those with partial alpha"


# Palettes


def is_a_palette(data, path):
    path.write_bytes(data)
    try:
        colors = read_palette(path, max_pixels=SETTINGS.max_pixels)
    except ImageError as error:
        message = str(error)
    else:
        assert colors.dtype == np.uint8
        assert 1 <= len(np.unique(colors, axis=0)) == len(colors) <= 256
        assert colors.shape[1] in (3, 4)
        return True
    assert_one_line_message(message, data)
    return False


WORDS = st.lists(
    st.sampled_from(["GIMP Palette", "\n", "\r", " ", "\t", "#", "0", "255", "fff", "Channels: RGBA", ";", "//", ","])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@settings(derandomize=True, database=None, max_examples=300)
@given(
    data=WORDS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60),
    name=st.sampled_from(["a.gpl", "a.hex", "a.txt", "a.png", "a"]),
)
def test_random_bytes_give_a_palette_or_one_error(data, name, folder):
    path = folder / name
    try:
        is_a_palette(data, path)
    finally:
        path.unlink()


def test_a_damaged_palette_file_gives_a_palette_or_one_error(tmp_path):
    whole = b"GIMP Palette\nName: lake\nChannels: RGBA\n#\n255 0 0 255 red\n 12 40 90 128\n"
    valid = [is_a_palette(damaged(whole, np.random.default_rng(seed)), tmp_path / "a.gpl") for seed in range(200)]
    assert 0 < sum(valid) < len(valid)
