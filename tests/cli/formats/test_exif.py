import io
import struct
from typing import Any

import pytest
from PIL import ExifTags, Image

from gpukmeans_cli.formats.exif import first_ifd, upright_exif
from gpukmeans_cli.formats.reading import read_image

THUMBNAIL = b"\xff\xd8thumbnail\xff\xd9"


def directory(order: str, *entries: tuple[int, int, int, int], link: int = 0) -> bytes:
    body = b"".join(
        struct.pack(
            f"{order}HHI" + ("HH" if kind == 3 else "I"), tag, kind, count, *([value, 0] if kind == 3 else [value])
        )
        for tag, kind, count, value in entries
    )
    return struct.pack(f"{order}H", len(entries)) + body + struct.pack(f"{order}I", link)


def camera_exif(order: str, orientation: int, after: bytes = b"") -> bytes:
    """EXIF of a photo of 6 x 4 pixels with a thumbnail: two IFDs, and the Exif IFD between them."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    exif_ifd, second, thumbnail = 8 + 54, 8 + 54 + 30, 8 + 54 + 30 + 42
    entries = (0x0100, 4, 1, 6), (0x0101, 4, 1, 4), (0x0112, 3, 1, orientation), (0x8769, 4, 1, exif_ifd)
    return (
        head
        + struct.pack(f"{order}I", 8)
        + directory(order, *entries, link=second)
        + directory(order, (0xA002, 3, 1, 6), (0xA003, 3, 1, 4))
        + directory(order, (0x0103, 3, 1, 6), (0x0201, 4, 1, thumbnail), (0x0202, 4, 1, len(THUMBNAIL)))
        + THUMBNAIL
        + after
    )


def parsed(exif: bytes | None) -> Any:
    assert exif is not None
    found = Image.Exif()
    found.load(exif)
    return found


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_agree_with_the_turned_pixels_and_a_thumbnail_is_left_out(tmp_path, order, orientation):
    Image.new("RGB", (6, 4)).save(tmp_path / "p.jpg", exif=b"Exif\0\0" + camera_exif(order, orientation))
    picture = read_image(tmp_path / "p.jpg")
    height, width, _ = picture.pixels.shape
    found, exif = parsed(picture.metadata.exif), picture.metadata.exif or b""
    assert (width, height) == ((4, 6) if orientation >= 5 else (6, 4))
    assert (found[0x0100], found[0x0101], found[0x0112]) == (width, height, 1)
    assert found.get_ifd(0x8769) == {0xA002: width, 0xA003: height}
    assert (THUMBNAIL in exif) == (orientation == 1)
    assert bool(found.get_ifd(ExifTags.IFD.IFD1)) == (orientation == 1)
    assert len(exif) == len(camera_exif(order, 1)) - (0 if orientation == 1 else 42 + len(THUMBNAIL))


@pytest.mark.parametrize(("after", "is_cut_off"), [(b"\0", True), (b"maker note", False)])
def test_bytes_after_a_thumbnail_stay_where_they_are(after, is_cut_off):
    exif = camera_exif("<", 6, after)
    upright = upright_exif(exif, 6, (4, 6)) or b""
    assert THUMBNAIL not in upright
    assert len(upright) == (len(camera_exif("<", 6)) - 42 - len(THUMBNAIL) if is_cut_off else len(exif))
    assert is_cut_off or upright.endswith(after)


def test_a_size_too_large_for_its_type_becomes_a_long():
    upright = upright_exif(camera_exif("<", 6), 6, (70_000, 6))
    assert parsed(upright).get_ifd(0x8769) == {0xA002: 70_000, 0xA003: 6}


@pytest.mark.parametrize("end", range(134))
def test_exif_that_is_cut_off_is_invalid_or_remains_readable(end):
    """134 is the end of the second IFD."""
    exif = camera_exif("<", 6)[:end]
    if end < 8 + 50:  # within the first IFD
        with pytest.raises((KeyError, struct.error)):
            upright_exif(exif, 6, (4, 6))
    else:
        entries = {entry.tag: entry.value for entry in first_ifd(upright_exif(exif, 6, (4, 6)) or b"")}
        assert (entries[0x0100], entries[0x0101], entries[0x0112]) == (4, 6, 1)


def test_an_exif_ifd_that_contains_itself_is_no_error():
    exif = b"II*\0\x08\0\0\0" + directory("<", (0x8769, 4, 1, 8), (0x0112, 3, 1, 6))
    assert [entry.tag for entry in first_ifd(upright_exif(exif, 6, (4, 6)) or b"")] == [0x8769, 0x0112]


def test_the_exif_of_a_turned_photo_is_written_without_its_thumbnail(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (6, 4)).save(data, "PNG", exif=b"Exif\0\0" + camera_exif(">", 6))
    (tmp_path / "p.png").write_bytes(data.getvalue())
    assert THUMBNAIL in data.getvalue()
    assert THUMBNAIL not in (read_image(tmp_path / "p.png").metadata.exif or b"")
