import io
import struct
import zlib

import deflate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gpukmeans_cli.formats import png_chunks
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.still import encode_pixels, encode_still, write_png
from gpukmeans_cli.system.atomic_files import SUFFIXES, ImageError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, GREY_ALPHA, RGB, RGBA = 1, 2, 3, 4
EFFORTS = range(4)
IN_GREY, IN_COLOR, WITH_PALETTE = 0, 2, 3  # color types


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def any_palette(n_colors: int, channels: int) -> np.ndarray:
    return noise(n_colors, channels, seed=n_colors)


def any_indices(n_colors: int, height: int = 19, width: int = 23) -> np.ndarray:
    return (np.arange(height * width) % n_colors).astype(np.uint8).reshape(height, width)


def list_of_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    assert png.startswith(PNG_MAGIC)
    found, start = [], len(PNG_MAGIC)
    while start < len(png):
        (length,) = struct.unpack_from(">I", png, start)
        kind, content = png[start + 4 : start + 8], png[start + 8 : start + 8 + length]
        assert struct.unpack_from(">I", png, start + 8 + length) == (zlib.crc32(kind + content),)
        found.append((kind, content))
        start += 12 + length
    assert start == len(png)
    return found


def chunks_of(png: bytes) -> dict[bytes, bytes]:
    chunks = list_of_chunks(png)
    assert len(dict(chunks)) == len(chunks)
    return dict(chunks)


def depth_and_color_type(png: bytes) -> tuple[int, int]:
    header = chunks_of(png)[b"IHDR"]
    return header[8], header[9]


def decoded(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGBA"))


def decoded_by_hand(png: bytes) -> np.ndarray:
    """The colors (height, width, 3) of a PNG with an opaque palette, by the text of the standard."""
    chunks = chunks_of(png)
    width, height, depth = struct.unpack_from(">IIB", chunks[b"IHDR"])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1).tolist()
    above, rows = [0] * len(lines[0]), []
    for kind, *line in lines:
        row = [0]
        for x, byte in enumerate(line, 1):
            a, b, c = row[x - 1], above[x], above[x - 1]
            nearest = min((a, b, c), key=lambda value: abs(a + b - c - value))
            row.append((byte + [0, a, b, (a + b) // 2, nearest][kind]) % 256)
        rows.append(above := row)
    bits = np.unpackbits(np.array(rows, np.uint8)[:, 1:], axis=1)
    indices = np.packbits(bits.reshape(height, -1, depth), axis=2)[:, :width, 0] >> (8 - depth)
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[indices]


def rgba(palette: np.ndarray) -> np.ndarray:
    """The colors as RGBA (K, 4)."""
    colors = palette[:, :3] if palette.shape[1] >= RGB else palette[:, [0, 0, 0]]
    alpha = palette[:, -1:] if palette.shape[1] in (GREY_ALPHA, RGBA) else np.full((len(palette), 1), 255, np.uint8)
    return np.hstack([colors, alpha])


def encoded(palette: np.ndarray, indices: np.ndarray, suffix: str = ".png", **options) -> bytes:
    """The encoded file, after a check of its pixels."""
    file = encode_still(palette, indices, suffix, **options)
    np.testing.assert_array_equal(decoded(file), rgba(palette)[indices])
    return file


# Every format

ALPHAS = np.array([[10, 20, 30, 255], [200, 100, 0, 255], [0, 0, 0, 0], [9, 200, 9, 255]], dtype=np.uint8)
PARTIAL_ALPHA = np.array([[10, 20, 30, 255], [200, 100, 0, 128], [0, 0, 0, 0], [9, 200, 9, 255]], dtype=np.uint8)
GREY_AND_INVISIBLE = np.array([[0, 255], [77, 255], [78, 255], [3, 0]], dtype=np.uint8)
IMAGES = {
    "a pixel": (np.array([[1, 2, 3]], np.uint8), np.zeros((1, 1), np.uint8)),
    "a pixel that is invisible": (np.zeros((1, 4), np.uint8), np.zeros((1, 1), np.uint8)),
    "one color": (np.array([[1, 2, 3]], np.uint8), np.zeros((30, 40), np.uint8)),
    "all transparent": (np.zeros((1, 4), np.uint8), np.zeros((30, 40), np.uint8)),
    "two colors": (any_palette(2, RGB), any_indices(2)),
    "256 colors": (any_palette(256, RGB), any_indices(256)),
    "a row": (any_palette(256, RGB), any_indices(256, 1, 10_000)),
    "a column": (any_palette(16, RGB), any_indices(16, 10_000, 1)),
    "grey": (np.arange(0, 256, 5, dtype=np.uint8)[:, None], any_indices(52)),
    "grey as RGB": (np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1), any_indices(256)),
    "grey and invisible": (GREY_AND_INVISIBLE, any_indices(4)),
    "colors and invisible": (ALPHAS, any_indices(4)),
    "equal colors": (np.array([[9, 9, 8], [1, 1, 1], [9, 9, 8]], np.uint8), any_indices(3)),
}
TRANSLUCENT = {
    "partial alphas": (PARTIAL_ALPHA, any_indices(4)),
    "256 alphas": (any_palette(256, RGBA), any_indices(256)),
    "grey with partial alphas": (any_palette(30, GREY_ALPHA), any_indices(30)),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", IMAGES)
def test_decoded_pixels_equal_the_palette_at_the_indices(suffix, name):
    encoded(*IMAGES[name], suffix)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("name", TRANSLUCENT)
def test_partial_alpha_is_kept(suffix, name):
    encoded(*TRANSLUCENT[name], suffix)


@pytest.mark.parametrize("name", TRANSLUCENT)
def test_partial_alpha_in_a_gif_is_an_error_that_names_other_formats(name):
    with pytest.raises(ImageError, match=r"partly transparent.*\.png or \.webp"):
        encode_still(*TRANSLUCENT[name], ".gif")


@pytest.mark.parametrize(("suffix", "max_side"), [(".gif", 65_535), (".webp", 16_383)])
def test_a_side_above_the_limit_of_the_format_is_an_error(suffix, max_side):
    palette = any_palette(1, RGB)
    assert decoded(encode_still(palette, np.zeros((1, max_side), np.uint8), suffix)).shape == (1, max_side, 4)
    with pytest.raises(ImageError, match=f"holds at most {max_side} a side; write .png"):
        encode_still(palette, np.zeros((max_side + 1, 1), np.uint8), suffix)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_selects_the_format_in_any_case(suffix):
    for name in (suffix, suffix.upper()):
        file = encode_still(any_palette(5, RGB), any_indices(5), name)
        assert Image.open(io.BytesIO(file)).format == suffix[1:].upper()


@pytest.mark.parametrize("suffix", [".jpg", "png", ""])
def test_another_suffix_is_an_error_that_lists_the_supported_ones(suffix):
    with pytest.raises(ImageError, match=r"use one of \.png, \.gif, \.webp"):
        encode_still(any_palette(5, RGB), any_indices(5), suffix)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n_colors", [5, 200])
def test_equal_pixels_give_equal_bytes(suffix, n_colors):
    palette, indices = any_palette(n_colors, RGB), any_indices(n_colors)
    file = encode_still(palette, indices, suffix)
    assert file == encode_still(palette.copy(), indices.copy(), suffix)
    assert file == encode_still(palette[::-1], n_colors - 1 - indices, suffix)


def test_indices_need_not_be_contiguous():
    for suffix in SUFFIXES:
        encoded(any_palette(7, RGB)[::-1], any_indices(7).T[::2], suffix)


def test_the_arguments_are_not_modified():
    palette, indices = PARTIAL_ALPHA.copy(), any_indices(4)
    for array in (palette, indices):
        array.setflags(write=False)
    encoded(palette, indices)
    np.testing.assert_array_equal(palette, PARTIAL_ALPHA)


@pytest.mark.parametrize(
    ("palette", "indices", "message"),
    [
        (np.zeros((0, 3), np.uint8), any_indices(1), "palette must be"),
        (np.zeros((257, 3), np.uint8), any_indices(1), "palette must be"),
        (np.zeros((2, 5), np.uint8), any_indices(2), "palette must be"),
        (np.zeros((2, 0), np.uint8), any_indices(2), "palette must be"),
        (np.zeros(3, np.uint8), any_indices(1), "palette must be"),
        (np.zeros((2, 3)), any_indices(2), "palette must be"),
        (np.zeros((2, 3), np.uint8), any_indices(2).astype(np.int64), "indices must be"),
        (np.zeros((2, 3), np.uint8), any_indices(2).ravel(), "indices must be"),
        (np.zeros((2, 3), np.uint8), np.zeros((0, 4), np.uint8), "not empty"),
        (np.zeros((2, 3), np.uint8), any_indices(3), "must be below 2"),
    ],
)
def test_a_palette_and_indices_that_do_not_match_are_a_value_error(palette, indices, message):
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match=message):
            encode_still(palette, indices, suffix)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_encoded_palette_image_decodes_to_its_pixels(data):
    n_colors = data.draw(st.integers(1, 256), "n_colors")
    channels = data.draw(st.sampled_from([GREY, GREY_ALPHA, RGB, RGBA]), "channels")
    height, width = data.draw(st.integers(1, 9), "height"), data.draw(st.integers(1, 9), "width")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    palette = rng.integers(0, 256, (n_colors, channels), dtype=np.uint8)
    if channels in (GREY_ALPHA, RGBA):
        palette[palette[:, -1] == 0] = 0
    encoded(palette, rng.integers(0, n_colors, (height, width), dtype=np.uint8))


# PNG chunks


@pytest.mark.parametrize(
    ("n_colors", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (255, 8), (256, 8)]
)
def test_without_effort_the_png_has_the_fewest_bits_and_exactly_the_colors(n_colors, bits):
    palette = any_palette(n_colors, RGB)
    chunks = chunks_of(encoded(palette, any_indices(n_colors), effort=0))
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 23, 19, bits, WITH_PALETTE, 0, 0, 0)
    stored = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(np.unique(stored, axis=0), np.unique(palette, axis=0))
    assert len(stored) == n_colors
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


@pytest.mark.parametrize("width", range(1, 18))
@pytest.mark.parametrize("n_colors", [2, 4, 16])
def test_rows_may_end_within_a_byte(n_colors, width):
    for effort in EFFORTS:
        encoded(any_palette(n_colors, RGB), any_indices(n_colors, 19, width), effort=effort)


def test_unused_and_equal_colors_are_not_stored():
    palette = any_palette(20, RGB)
    palette[7] = palette[3]
    png = encoded(palette, np.array([[3, 7, 5]], np.uint8))
    assert depth_and_color_type(png) == (1, WITH_PALETTE)
    assert set(struct.iter_unpack("3s", chunks_of(png)[b"PLTE"])) == {(palette[3].tobytes(),), (palette[5].tobytes(),)}


def test_invisible_colors_have_one_palette_entry():
    palette = np.array([[1, 2, 3, 0], [5, 6, 7, 255], [9, 9, 9, 0]], np.uint8)
    png = encode_still(palette, any_indices(3), ".png")
    assert chunks_of(png)[b"PLTE"] == bytes([1, 2, 3, 5, 6, 7])
    assert chunks_of(png)[b"tRNS"] == b"\0"
    np.testing.assert_array_equal(decoded(png), palette[[0, 1, 0]][any_indices(3)])


@pytest.mark.parametrize(
    "alphas", [[255, 255, 255], [0, 255, 255], [255, 7, 255], [255, 255, 0], [1, 2, 3], [255, 0, 3]]
)
def test_alpha_is_stored_only_for_entries_that_are_not_opaque(alphas):
    palette = any_palette(3, RGBA)
    palette[:, -1] = alphas
    stored = chunks_of(encoded(palette, any_indices(3))).get(b"tRNS", b"")
    assert sorted(stored) == sorted(alpha for alpha in alphas if alpha < 255)


@pytest.mark.parametrize(
    ("levels", "depth"),
    [([0, 255], 1), ([255], 1), ([0, 85, 255], 2), ([17, 0, 34, 68, 238], 4), (range(256), 8), (range(0, 256, 5), 8)],
)
def test_grey_has_no_palette_and_the_lowest_bit_depth_of_its_levels(levels, depth):
    palette = np.array(levels, dtype=np.uint8)[:, None]
    png = encoded(palette, any_indices(len(palette)))
    assert depth_and_color_type(png) == (depth, IN_GREY)
    assert list(chunks_of(png)) == [b"IHDR", b"IDAT", b"IEND"]


def test_few_grey_levels_that_need_8_bits_have_a_palette_of_fewer_bits():
    png = encoded(np.array([[1], [2]], np.uint8), noise(60, 60) % 2)
    assert depth_and_color_type(png) == (1, WITH_PALETTE)


def test_grey_with_an_invisible_color_has_no_palette_and_8_bits():
    palette = np.full((256, 2), 255, np.uint8)
    palette[:, 0] = np.arange(256)
    palette[7, 1] = 0
    png = encoded(palette, any_indices(256))
    assert depth_and_color_type(png) == (8, IN_GREY)
    assert chunks_of(png)[b"tRNS"] == b"\0\7"


def test_an_invisible_color_of_a_used_grey_level_needs_a_palette():
    png = encoded(np.array([[0, 255], [0, 0], [255, 255]], np.uint8), any_indices(3))
    assert depth_and_color_type(png)[1] == WITH_PALETTE


# Size of a PNG


def hills(n_colors: int) -> np.ndarray:
    """Random walks along the rows, each of which begins near the one above."""
    rng = np.random.default_rng(n_colors)
    height = rng.normal(size=(400, 400)).cumsum(axis=1) + rng.normal(size=(400, 1)).cumsum(axis=0)
    return np.digitize(height, np.linspace(height.min(), height.max(), n_colors + 1)[1:-1])


def runs(n_colors: int) -> np.ndarray:
    """Runs of 1 to 9 pixels of a color."""
    rng = np.random.default_rng(n_colors)
    return np.repeat(rng.integers(0, n_colors, 40_000), rng.integers(1, 10, 40_000))[:160_000].reshape(400, 400)


def tiles(n_colors: int) -> np.ndarray:
    return np.tile(np.random.default_rng(n_colors).integers(0, n_colors, (40, 40)), (10, 10))


def scattered(n_colors: int) -> np.ndarray:
    return np.random.default_rng(n_colors).integers(0, n_colors, (400, 400))


@pytest.mark.parametrize("make_indices", [runs, hills, tiles, scattered])
@pytest.mark.parametrize("n_colors", [2, 4, 7, 16, 17, 64, 256])
def test_no_file_is_more_than_one_percent_larger_than_by_pillow(make_indices, n_colors):
    palette, indices = any_palette(n_colors, RGB), make_indices(n_colors).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    by_pillow = io.BytesIO()
    image.save(by_pillow, "PNG", compress_level=9)
    assert len(encoded(palette, indices)) <= 1.01 * len(by_pillow.getvalue())


def test_the_palette_order_makes_a_photo_smaller():
    """Colors that are often adjacent get close indices, regardless of their values."""
    indices = hills(256).astype(np.uint8)
    shuffled = np.random.default_rng(1).permutation(256).astype(np.uint8)
    palette = any_palette(256, RGB)
    unordered = io.BytesIO()
    Image.fromarray(shuffled[indices]).save(unordered, "PNG", compress_level=9)
    png = encoded(palette[np.argsort(shuffled)], shuffled[indices])
    assert len(png) < 0.8 * len(unordered.getvalue())


# Effort


@pytest.mark.parametrize("name", [*IMAGES, *TRANSLUCENT])
def test_the_highest_effort_has_the_same_pixels_and_the_smallest_file(name):
    palette, indices = (IMAGES | TRANSLUCENT)[name]
    for suffix in SUFFIXES if name in IMAGES else [".png", ".webp"]:
        sizes = [len(encoded(palette, indices, suffix, effort=effort)) for effort in EFFORTS]
        assert sizes[3] == min(sizes)


@pytest.mark.parametrize("n_colors", [2, 16, 64, 256])
def test_pixels_read_by_an_independent_decoder_are_the_same_at_every_effort(n_colors):
    palette, indices = any_palette(n_colors, RGB), hills(n_colors).astype(np.uint8)[:60, :75]
    for effort in EFFORTS:
        colors = decoded_by_hand(encoded(palette, indices, effort=effort))
        np.testing.assert_array_equal(colors, palette[indices])


@pytest.mark.parametrize("make_indices", [hills, tiles])
@pytest.mark.parametrize("n_colors", [16, 256])
def test_effort_makes_photos_and_drawings_smaller(make_indices, n_colors):
    palette, indices = any_palette(n_colors, RGB), make_indices(n_colors).astype(np.uint8)[:200, :200]
    sizes = [len(encoded(palette, indices, effort=effort)) for effort in EFFORTS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[3] < 0.99 * sizes[0]


def test_few_colors_have_a_byte_each_where_that_is_smaller():
    indices = hills(16).astype(np.uint8)
    assert depth_and_color_type(encoded(any_palette(16, RGB), indices)) == (8, WITH_PALETTE)
    assert depth_and_color_type(encoded(any_palette(16, RGB), scattered(16).astype(np.uint8))) == (4, WITH_PALETTE)


def test_repeats_are_found_in_a_drawing():
    indices = scattered(256).astype(np.uint8)[:40, :400]
    once, twice = (len(encoded(any_palette(256, RGB), np.tile(indices, (n, 1)))) for n in (1, 2))
    assert twice < 1.05 * once


def test_a_small_drawing_is_smaller_than_by_libdeflate():
    indices = tiles(256).astype(np.uint8)[:300, :300]
    (data,) = (body for kind, body in list_of_chunks(encoded(any_palette(256, RGB), indices)) if kind == b"IDAT")
    assert len(data) < len(deflate.zlib_compress(zlib.decompress(data), 12))


# Metadata

EXIF = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\1\0\0\0\0\0\0\0"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def reopened(suffix: str, palette: np.ndarray | None = None, **fields: object) -> Image.Image:
    palette = any_palette(5, RGB) if palette is None else palette
    file = encoded(palette, any_indices(len(palette)), suffix, metadata=Metadata(**fields))
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_profile_exif_and_xmp_are_stored(suffix):
    info = reopened(suffix, icc_profile=PROFILE, exif=EXIF, xmp=XMP).info
    assert (info["icc_profile"], info["xmp"]) == (PROFILE, XMP)
    assert info["exif"].removeprefix(b"Exif\0\0") == EXIF


def test_chunks_are_in_the_order_required_by_png():
    stored = Metadata(icc_profile=PROFILE, exif=EXIF, xmp=XMP, dpi=(72, 72), text={"Title": "A"})
    kinds = [kind for kind, _ in list_of_chunks(encode_still(PARTIAL_ALPHA, any_indices(4), ".png", metadata=stored))]
    assert kinds == [
        *(b"IHDR", b"iCCP", b"PLTE", b"tRNS", b"pHYs"),
        *(b"eXIf", b"iTXt", b"tEXt", b"IDAT", b"IEND"),
    ]


@pytest.mark.parametrize("dpi", [(72, 72), (300.5, 96), (1, 9600)])
def test_a_resolution_is_stored_as_by_pillow(dpi):
    ours, by_pillow = reopened(".png", dpi=dpi), io.BytesIO()
    Image.new("L", (1, 1)).save(by_pillow, "PNG", dpi=dpi)
    assert ours.info["dpi"] == Image.open(by_pillow).info["dpi"]


@pytest.mark.parametrize("dpi", [(0, 0), (-1, 72), (float("nan"), 72), (72, float("inf")), (1e9, 1e9)])
def test_a_resolution_that_png_cannot_store_is_left_out(dpi):
    assert "dpi" not in reopened(".png", dpi=dpi).info


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("short", b"tEXt"),
        ("größer", b"tEXt"),
        ("", b"tEXt"),
        ("long " * 100, b"zTXt"),
        ("色", b"iTXt"),
        ("色" * 500, b"iTXt"),
    ],
)
def test_a_text_is_stored_in_the_smallest_form(text, kind):
    image = reopened(".png", text={"Title": text})
    assert image.text == {"Title": text}
    png = encode_still(any_palette(5, RGB), any_indices(5), ".png", metadata=Metadata(text={"Title": text}))
    assert len(chunks_of(png)[kind]) < 200


def test_a_text_too_long_for_decoders_to_decompress_is_not_compressed():
    text = "a" * (png_chunks._MAX_DECOMPRESSED + 1)
    assert reopened(".png", text={"Comment": text}).text == {"Comment": text}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_profile_too_long_for_decoders_to_decompress_is_left_out_of_a_png(suffix, excess):
    profile = PROFILE.ljust(png_chunks._MAX_DECOMPRESSED + excess, b"\0")
    kept = reopened(suffix, icc_profile=profile).info.get("icc_profile")
    assert kept == (None if excess and suffix == ".png" else profile)


@pytest.mark.parametrize("keyword", ["", "a" * 80, "色", "a\0b"])
def test_a_text_with_a_keyword_that_png_cannot_store_is_left_out(keyword):
    assert reopened(".png", text={keyword: "text", "Title": "kept"}).text == {"Title": "kept"}


def test_blanks_that_png_does_not_allow_in_a_keyword_are_removed():
    text = {" Title": "a", "Author  of ": "b", " XML:com.adobe.xmp ": "c", "  ": "d"}
    assert reopened(".png", text=text, xmp=XMP).text == {
        "Title": "a",
        "Author of": "b",
        "XML:com.adobe.xmp": XMP.decode(),
    }


def test_pixels_that_are_not_square_are_kept_by_png():
    assert reopened(".png", pixel_aspect=(2, 1)).info["aspect"] == (2, 1)


def test_xmp_among_the_texts_is_not_stored_twice():
    assert reopened(".png", xmp=XMP, text={"XML:com.adobe.xmp": "old"}).info["xmp"] == XMP


def test_a_gif_stores_its_comment():
    assert reopened(".gif", text={"Comment": "größer", "Title": "lost"}).info["comment"] == "größer".encode()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_has_no_metadata_by_default(suffix):
    assert not {"icc_profile", "exif", "xmp", "dpi", "comment"} & reopened(suffix).info.keys()


def test_grey_with_an_rgb_profile_has_a_palette():
    image = reopened(".png", np.array([[0], [255]], np.uint8), icc_profile=PROFILE)
    assert (image.mode, image.info["icc_profile"]) == ("P", PROFILE)


def test_a_grey_profile_needs_grey_samples_even_where_a_palette_is_smaller():
    profile = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    palette, indices = np.array([[1], [2]], np.uint8), noise(60, 60) % 2
    png = encoded(palette, indices, metadata=Metadata(icc_profile=profile))
    assert depth_and_color_type(png) == (8, IN_GREY)


# Other functions


def test_write_png_replaces_an_existing_file(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_bytes(b"old")
    write_png(path, Image.fromarray(noise(9, 8, 3)), overwrite=True)
    assert depth_and_color_type(path.read_bytes()) == (8, IN_COLOR)
    np.testing.assert_array_equal(decoded(path.read_bytes())[..., :3], noise(9, 8, 3))


def test_write_png_without_overwrite_keeps_an_existing_file(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_bytes(b"old")
    with pytest.raises(ImageError, match="already exists"):
        write_png(path, Image.new("RGB", (1, 1)), overwrite=False)
    assert path.read_bytes() == b"old"


def test_write_png_into_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="its folder does not exist"):
        write_png(tmp_path / "none" / "sheet.png", Image.new("RGB", (1, 1)), overwrite=True)


def test_unused_colors_are_stored_only_with_whole_palette():
    palette = np.array([[0, 0, 0], [255, 0, 0], [9, 9, 9]], dtype=np.uint8)
    indices = np.array([[0, 2, 0]], dtype=np.uint8)
    for whole in (False, True):
        data = encode_still(palette, indices, ".png", whole_palette=whole)
        assert (b"\xff\x00\x00" in data) == whole
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), palette[indices])


def test_an_invisible_grey_beside_black_and_white_is_decoded_unchanged_by_pillow():
    palette = np.array([[0, 255], [255, 255], [85, 0]], dtype=np.uint8)
    indices = np.array([[0, 1, 2, 0]], dtype=np.uint8)
    with Image.open(io.BytesIO(encode_still(palette, indices, ".png"))) as image:
        assert np.array_equal(np.asarray(image.convert("RGBA")), rgba(palette)[indices])


@pytest.mark.parametrize("channels", [GREY, GREY_ALPHA, RGB, RGBA])
def test_pixels_are_encoded_losslessly_with_their_profile(channels):
    pixels = noise(9, 8, channels)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data, suffix = encode_pixels(pixels, Metadata(icc_profile=profile, exif=b"MM\0*"))
    image = Image.open(io.BytesIO(data))
    assert (image.format, suffix, image.info["icc_profile"]) == ("WEBP", ".webp", profile)
    assert "exif" not in image.info
    mode = {GREY: "L", GREY_ALPHA: "LA", RGB: "RGB", RGBA: "RGBA"}[channels]
    assert np.array_equal(np.asarray(image.convert(mode)).reshape(pixels.shape), pixels)


def test_pixels_too_long_for_webp_become_a_png():
    pixels = noise(1, 16384, RGB)
    data, suffix = encode_pixels(pixels, Metadata())
    assert (data[:8], suffix) == (PNG_MAGIC, ".png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
