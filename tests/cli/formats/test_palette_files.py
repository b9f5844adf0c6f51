import io
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from gpukmeans_cli.formats.palette_files import PaletteError, format_gpl, format_hex, hex_of, parse_colors, read_palette
from gpukmeans_cli.system.atomic_files import ImageError


@pytest.fixture
def read(tmp_path):
    """Reads the palette of a file of this text."""

    def read(text, name="palette.hex", encoding="utf-8"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        palette = read_palette(tmp_path / name)
        assert palette.dtype == np.uint8
        return palette.tolist()

    return read


def save(pixels, path, **options):
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path, **options)
    return path


# Colors as text


@pytest.mark.parametrize(
    ("text", "colors"),
    [
        ("#ff8000", [[255, 128, 0]]),
        ("ff8000", [[255, 128, 0]]),
        ("FF8000,#Ff80aB", [[255, 128, 0], [255, 128, 171]]),
        ("#f80", [[255, 136, 0]]),
        ("  #f80 ,\tfff  ", [[255, 136, 0], [255, 255, 255]]),
        ("#ff0000,#fff,00ff0080", [[255, 0, 0, 255], [255, 255, 255, 255], [0, 255, 0, 128]]),
        ("#f808,000", [[255, 136, 0, 136], [0, 0, 0, 255]]),
    ],
)
def test_colors_have_3_4_6_or_8_digits(text, colors):
    palette = parse_colors(text)
    assert palette.dtype == np.uint8
    assert palette.tolist() == colors


def test_alpha_is_dropped_if_all_colors_are_opaque():
    assert parse_colors("#ff0000ff,#00ff").tolist() == [[255, 0, 0], [0, 0, 255]]


def test_the_order_is_kept_and_of_equal_colors_only_the_first():
    assert parse_colors("#fff,#000,#ffffff,#00f,#000f").tolist() == [[255, 255, 255], [0, 0, 0], [0, 0, 255]]


def test_colors_of_alpha_0_become_one_color_of_0_in_all_channels():
    assert parse_colors("#fff0,#123,#12345600").tolist() == [[0, 0, 0, 0], [17, 34, 51, 255]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("reds", ["color 1: 'reds' is not a color", "3, 4, 6 or 8 hex digits"]),
        ("#fff,#ff", ["color 2: '#ff' is not a color"]),
        ("#fff,,#000", ["color 2: '' is not a color"]),
        ("#fff,", ["color 2: '' is not a color"]),
        ("#12345", ["'#12345'"]),
        ("#1234567", ["'#1234567'"]),
        ("#123456789", ["'#123456789'"]),
        ("##fff", ["'##fff'"]),
        ("# fff", ["'# fff'"]),
        ("fff 000", ["'fff 000'"]),
        ("0xfff", ["'0xfff'"]),
        ("#\uff11\uff12\uff13", ["color 1: "]),  # digits, but not of hex
        ("#ggg", ["'#ggg'"]),
        ("", ["no color is given"]),
        ("  ", ["no color is given"]),
        ("x" * 1000, [f"'{'x' * 37}...'"]),
    ],
)
def test_an_invalid_color_is_an_error_with_its_number(text, parts):
    with pytest.raises(PaletteError) as caught:
        parse_colors(text)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 150


def test_256_colors_are_valid_and_257_are_not():
    colors = [f"{n:06x}" for n in range(257)]
    assert parse_colors(",".join(colors[:256])).shape == (256, 3)
    with pytest.raises(PaletteError, match="257 colors are too many, a palette has at most 256"):
        parse_colors(",".join(colors))


def test_a_palette_error_is_an_image_error_of_one_line():
    with pytest.raises(ImageError, match=r"\A[^\n]+\Z"):
        parse_colors("a\nb")


# Text files


@pytest.mark.parametrize(
    "text",
    [
        "ff0000\n00ff00\n0000ff\n",
        "#f00\r\n#0f0\r\n#00f",
        "#f00,#0f0,#00f",
        "#f00 #0f0\t#00f",
        "#f00, #0f0,\n\n  #00f ,\n",
        "\ufeff#f00\n#0f0\n#00f\n",
        "; made by hand\n#f00 ; red\n// the others\n#0f0 // green\n#00f//blue",
        "# made by hand\n#\n#f00\n#0f0 # green\n#00f #\tblue\n",
    ],
    ids=["lines", "crlf", "commas", "blanks", "both", "byte order mark", "comments", "number signs"],
)
def test_hex_colors_may_be_separated_in_many_ways(read, text):
    assert read(text) == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert read(text, "palette.TXT") == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert read(text, "palette") == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("comment", ["; paint.net Palette File", ";paint.net Palette File"])
def test_paint_net_writes_alpha_first(read, comment):
    assert read(f"{comment}\n; Colors: 3\nFF010203\n80040506\n070809\n", "palette.txt") == [
        [1, 2, 3, 255],
        [4, 5, 6, 128],
        [7, 8, 9, 255],
    ]


def test_paint_net_writes_alpha_first_also_of_one_digit(read):
    assert read("; paint.net Palette File\n8123\n", "palette.txt") == [[0x11, 0x22, 0x33, 0x88]]


def test_alpha_is_last_without_the_name_of_paint_net(read):
    assert read("; Colors: 1\nFF010203\n") == [[255, 1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#fff\n#comment\n", "line 2: '#comment' is not a color"),
        ("#fff\n#000 black\n", "line 2: 'black' is not a color"),
        ("\n\nred\n", "line 3: 'red' is not a color"),
        ("", "holds no color"),
        ("; nothing\n\n# here\n", "holds no color"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "has the suffix of text but is not text"),
        ("#fff\n".encode("utf-16"), "save text as UTF-8"),
        (b"\xff\xfe\n", "line 1: '\ufffd\ufffd' is not a color"),
        ("\n".join(f"{n:06x}" for n in range(300)), "300 colors are too many, a palette has at most 256"),
        (b"#fff\n" * 300_000, "is too large for a palette"),
    ],
)
def test_an_invalid_text_is_an_error_with_the_line(read, text, message):
    with pytest.raises(PaletteError) as caught:
        read(text)
    assert message in str(caught.value)


def test_a_text_has_at_most_one_mebibyte(read):
    text = "#fff\n;".ljust(1 << 20, "x")
    assert read(text) == [[255, 255, 255]]
    with pytest.raises(PaletteError, match="more than 1 MiB"):
        read(text + "x")


def test_the_same_color_ten_thousand_times_is_one_color(read):
    assert read("#fff\n" * 10_000) == [[255, 255, 255]]


# GIMP palettes


GIMP = "GIMP Palette\nName: Three\nColumns: 3\n# comment\n255   0   0\tred\n  0 255   0\n\n0 0 255 50 shades of blue\n"


@pytest.mark.parametrize("name", ["palette.gpl", "palette.txt", "palette", "palette.GPL", "palette.png"])
def test_a_gimp_palette_is_recognized_by_its_first_line(read, name):
    assert read(GIMP, name) == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    "text",
    [GIMP.replace("\n", "\r\n"), "\ufeff" + GIMP, GIMP.replace("Name: Three\nColumns: 3\n", ""), GIMP.rstrip("\n")],
    ids=["crlf", "byte order mark", "old", "no last newline"],
)
def test_gimp_palettes_come_in_variants(read, text):
    assert read(text, "palette.gpl") == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_names_may_be_in_latin_1(read):
    assert read("GIMP Palette\nName: gr\xfcn\n0 255 0 gr\xfcn\n", "palette.gpl", "latin-1") == [[0, 255, 0]]


def test_a_fourth_channel_is_alpha_only_if_declared(read):
    rows = "1 2 3 128\n4 5 6 255 name\n"
    assert read(f"GIMP Palette\n{rows}", "a.gpl") == [[1, 2, 3], [4, 5, 6]]
    assert read(f"GIMP Palette\nChannels: RGBA\n#\n{rows}", "a.gpl") == [[1, 2, 3, 128], [4, 5, 6, 255]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GIMP Palette\n1 2\n", "line 2: '1 2' does not begin with red, green and blue of 0 to 255"),
        ("GIMP Palette\n#\n\n1 2 256 name\n", "line 4: '1 2 256 name'"),
        ("GIMP Palette\n-1 2 3\n", "line 2: '-1 2 3'"),
        ("GIMP Palette\n1.0 2 3\n", "line 2"),
        ("GIMP Palette\n\u0661 2 3\n", "line 2"),
        ("GIMP Palette\nred\n", "line 2: 'red'"),
        ("GIMP Palette\nChannels: RGBA\n1 2 3 name\n", "red, green, blue and alpha"),
        ("GIMP Palette\nName: none\n#\n", "holds no color"),
        ("#ff0000\n", 'does not begin with the line "GIMP Palette"'),
        ("", 'does not begin with the line "GIMP Palette"'),
    ],
)
def test_an_invalid_gimp_palette_is_an_error_with_the_line(read, text, message):
    with pytest.raises(PaletteError) as caught:
        read(text, "palette.gpl")
    assert message in str(caught.value)


# Images


def test_the_colors_of_an_image_are_in_order_of_first_occurrence_along_rows(tmp_path):
    pixels = [[[9, 9, 9], [1, 2, 3]], [[1, 2, 3], [200, 0, 0]], [[0, 0, 0], [9, 9, 9]]]
    palette = read_palette(save(pixels, tmp_path / "a.png"))
    assert palette.dtype == np.uint8
    assert palette.tolist() == [[9, 9, 9], [1, 2, 3], [200, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_unused_entries_of_the_palette_of_an_image_are_left_out(tmp_path, suffix):
    image = Image.fromarray(np.array([[2, 2, 0], [0, 2, 2]], dtype=np.uint8))
    image.putpalette([1, 1, 1, 50, 50, 50, 7, 8, 9, 60, 60, 60])
    image.save(tmp_path / f"a{suffix}")
    assert read_palette(tmp_path / f"a{suffix}").tolist() == [[7, 8, 9], [1, 1, 1]]


def test_many_invisible_colors_are_one_color(tmp_path):
    pixels = np.zeros((300, 1, 4))
    pixels[:256, 0, 0], pixels[256:, 0, 1] = np.arange(256), np.arange(1, 45)
    assert read_palette(save(pixels, tmp_path / "a.png")).tolist() == [[0, 0, 0, 0]]


def test_an_image_with_alpha_has_one_color_for_all_invisible_pixels(tmp_path):
    pixels = [[[9, 9, 9, 0], [1, 2, 3, 128], [7, 7, 7, 0], [1, 2, 3, 255]]]
    assert read_palette(save(pixels, tmp_path / "a.png")).tolist() == [[0, 0, 0, 0], [1, 2, 3, 128], [1, 2, 3, 255]]


def test_a_grey_image_gives_rgb_colors(tmp_path):
    assert read_palette(save([[5, 0], [5, 255]], tmp_path / "a.png")).tolist() == [[5, 5, 5], [0, 0, 0], [255] * 3]
    assert read_palette(save([[[5, 128], [6, 0]]], tmp_path / "b.png")).tolist() == [[5, 5, 5, 128], [0, 0, 0, 0]]


def test_an_image_of_one_pixel_and_an_invisible_image_have_one_color(tmp_path):
    assert read_palette(save([[[1, 2, 3]]], tmp_path / "a.png")).tolist() == [[1, 2, 3]]
    assert read_palette(save(np.full((3, 4, 4), [9, 9, 9, 0]), tmp_path / "b.png")).tolist() == [[0, 0, 0, 0]]


def test_an_image_of_too_many_colors_is_an_error_with_their_number(tmp_path):
    pixels = np.arange(257 * 3 * 2).reshape(-1, 2, 3) // 3 % 257
    pixels[..., 1] = np.arange(pixels.shape[0] * 2).reshape(-1, 2) // 257
    distinct = len(np.unique(pixels.astype(np.uint8).reshape(-1, 3), axis=0))
    assert distinct > 256
    with pytest.raises(PaletteError, match=f"{distinct} colors are too many, a palette has at most 256"):
        read_palette(save(pixels, tmp_path / "a.png"))
    ramp = save(np.arange(256)[:, None], tmp_path / "b.png")
    assert read_palette(ramp).shape == (256, 3)


@pytest.mark.parametrize("name", ["missing.png", "missing.gpl", "missing.hex", "missing"])
def test_a_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(ImageError, match="does not exist; check the path"):
        read_palette(tmp_path / name)


@pytest.mark.parametrize("name", ["folder.gpl", "folder"])
def test_a_folder_is_an_error(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        read_palette(tmp_path / name)


def test_a_file_that_is_not_an_image_or_empty_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageError, match="is not an image that Pillow can read"):
        read_palette(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(ImageError, match="is empty"):
        read_palette(tmp_path / "b.png")


def test_image_formats_that_are_text_are_read_as_images(tmp_path):
    (tmp_path / "a.xbm").write_text("#define a_width 1\n#define a_height 1\nstatic char a_bits[] = {\n0x01};\n")
    assert read_palette(tmp_path / "a.xbm").tolist() == [[255, 255, 255]]
    (tmp_path / "a.ppm").write_text("P3 1 1 255\n1 2 3\n")
    assert read_palette(tmp_path / "a.ppm").tolist() == [[1, 2, 3]]


def test_the_limit_of_pixels_is_applied(tmp_path):
    save(np.zeros((3, 4)), tmp_path / "a.png")
    assert len(read_palette(tmp_path / "a.png", max_pixels=12)) == 1
    with pytest.raises(ImageError, match="has 12 pixels, the limit is 11"):
        read_palette(tmp_path / "a.png", max_pixels=11)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize(("name", "data"), [("pipe.hex", b"#010203\n"), ("pipe", None)])
def test_a_pipe_is_opened_once(tmp_path, monkeypatch, name, data):
    if data is None:
        png = io.BytesIO()
        Image.new("RGB", (2, 2), (1, 2, 3)).save(png, "PNG")
        data = png.getvalue()
    os.mkfifo(tmp_path / name)
    opened, original = [], Path.open

    def open_once(path, *args, **options):
        assert not opened  # a second open would wait for another writer forever
        opened.append(path)
        return original(path, *args, **options)

    def write():
        with open(tmp_path / name, "wb") as pipe:
            pipe.write(data)

    monkeypatch.setattr(Path, "open", open_once)
    threading.Thread(target=write, daemon=True).start()
    assert read_palette(tmp_path / name).tolist() == [[1, 2, 3]]


# Palettes as text


def test_hex_has_a_line_for_each_color_and_alpha_only_if_not_opaque():
    assert format_hex(np.array([[255, 128, 0], [0, 0, 10]], dtype=np.uint8)) == "#ff8000\n#00000a\n"
    assert format_hex(np.array([[255, 128, 0, 255], [0, 0, 10, 5]], dtype=np.uint8)) == "#ff8000\n#00000a05\n"


def test_a_color_in_hex_has_two_digits_a_channel():
    assert hex_of([0, 1, 255]) == "#0001ff"
    assert hex_of([0, 1, 255, 255]) == "#0001ff"
    assert hex_of([0, 1, 255, 0]) == "#0001ff00"


def test_a_gimp_palette_has_the_expected_form():
    palette = np.array([[255, 128, 0, 255], [0, 0, 0, 0], [7, 0, 10, 5]], dtype=np.uint8)
    assert format_gpl(palette, " my\npalette ") == (
        "GIMP Palette\nName: my palette\n#\n255 128   0 #ff8000\n  7   0  10 #07000a05\n"
    )


def test_a_name_that_looks_like_a_color_is_not_read_as_a_color(read):
    assert read(format_gpl(np.array([[1, 2, 3]], dtype=np.uint8), "1 2 3\n4 5 6"), "a.gpl") == [[1, 2, 3]]


@st.composite
def palettes(draw, channels):
    colors = draw(arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.just(channels)), unique=False))
    if channels == 4:
        colors[colors[:, 3] == 0] = 0
        colors[0, 3] = 7  # so that alpha is kept
    _, first = np.unique(colors, axis=0, return_index=True)
    return colors[np.sort(first)]


@given(st.sampled_from([3, 4]).flatmap(palettes))
def test_a_palette_written_as_hex_is_read_unchanged(tmp_path_factory, palette):
    path = tmp_path_factory.mktemp("hex") / "a.hex"
    path.write_text(format_hex(palette))
    assert np.array_equal(read_palette(path), palette)
    assert np.array_equal(parse_colors(",".join(format_hex(palette).split())), palette)


@given(palettes(3))
def test_a_palette_written_for_gimp_is_read_unchanged(tmp_path_factory, palette):
    path = tmp_path_factory.mktemp("gpl") / "a.gpl"
    path.write_text(format_gpl(palette, "a"))
    assert np.array_equal(read_palette(path), palette)
    assert not re.search(r"[^\x20-\x7e\n]", path.read_text())


def test_a_color_of_fixed_may_have_a_name_of_css():
    palette = parse_colors(" red,RebeccaPurple, #fff,white,Navy")
    assert palette.tolist() == [[255, 0, 0], [102, 51, 153], [255, 255, 255], [0, 0, 128]]
    with pytest.raises(
        PaletteError, match="color 2: 'redd' is not a color; write a name, like red, or 3, 4, 6 or 8 hex"
    ):
        parse_colors("red,redd")


JASC = "JASC-PAL\r\n0100\r\n3\r\n255 0 16\r\n1 2 3\r\n255 0 16\r\n"


@pytest.mark.parametrize("name", ["a.pal", "a.PAL", "a.txt", "a"])
def test_a_palette_of_paint_shop_pro_is_read(tmp_path, name):
    (tmp_path / name).write_text(JASC)
    assert read_palette(tmp_path / name).tolist() == [[255, 0, 16], [1, 2, 3]]
    (tmp_path / name).write_text(f"{JASC}4 5 6 7\n\n")
    assert read_palette(tmp_path / name)[2:].tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("JASC-PAL\n0100\n1\n1 2\n", "line 4: '1 2' must be red, green and blue of 0 to 255"),
        ("JASC-PAL\n0100\n1\n1 2 256\n", "line 4: "),
        ("JASC-PAL\n0100\n0\n", "holds no color"),
        ("ff0000\n", 'does not begin with the line "JASC-PAL"'),
    ],
)
def test_a_damaged_palette_of_paint_shop_pro_is_an_error(tmp_path, text, complaint):
    (tmp_path / "a.pal").write_text(text)
    with pytest.raises(PaletteError, match=complaint):
        read_palette(tmp_path / "a.pal")


def test_a_color_table_of_photoshop_is_read(tmp_path):
    path, colors = tmp_path / "a.act", np.random.default_rng(0).permutation(256 * 3 * 5)[:768] % 256
    table = bytes(colors.astype(np.uint8))
    path.write_bytes(table)
    assert np.array_equal(read_palette(path), np.array(list(dict.fromkeys(map(tuple, colors.reshape(-1, 3).tolist())))))
    path.write_bytes(table + bytes([0, 2, 0xFF, 0xFF]))
    assert read_palette(path).tolist() == colors[:6].reshape(2, 3).tolist()
    path.write_bytes(table + bytes([0, 2, 0, 1]))
    assert read_palette(path).tolist() == [[*colors[:3].tolist(), 255], [0, 0, 0, 0]]
    path.write_bytes(table[:-1])
    with pytest.raises(PaletteError, match=r"must have 768 or 772 bytes, .* got 767"):
        read_palette(path)
    with pytest.raises(ImageError, match="does not exist; check the path"):
        read_palette(tmp_path / "none.act")
