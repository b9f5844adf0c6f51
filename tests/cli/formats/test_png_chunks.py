import numpy as np
import pytest

from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import (
    chunk,
    index_bit_depth,
    metadata_before_idat,
    metadata_before_plte,
    pack_samples,
    parse_chunks,
    png_file,
    scanlines,
    without_metadata,
)


def test_parsed_chunks_equal_the_written_ones():
    expected = [(b"IHDR", b"head"), (b"IDAT", b""), (b"IEND", b"")]
    data = png_file(*(chunk(*part) for part in expected[:2]))
    assert list(parse_chunks(data)) == expected


@pytest.mark.parametrize("end", range(8, 40))
def test_a_truncated_or_corrupted_file_is_an_error(end):
    data = png_file(chunk(b"IHDR", b"head"), chunk(b"IDAT", b"data"))
    with pytest.raises(SyntaxError, match="cut off"):
        list(parse_chunks(data[:end]))
    with pytest.raises(SyntaxError, match=r"broken|cut off"):
        list(parse_chunks(data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]))


@pytest.mark.parametrize(("n_colors", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_the_bit_depth_is_the_lowest_for_all_indices(n_colors, bits):
    assert index_bit_depth(n_colors) == bits


def test_samples_are_packed_from_the_highest_bits():
    samples = np.array([[1, 0, 1], [0, 3, 2]], dtype=np.uint8)
    assert pack_samples(samples, 2).tolist() == [[0b01000100], [0b00111000]]
    assert pack_samples(samples, 4).tolist() == [[0x10, 0x10], [0x03, 0x20]]
    assert np.array_equal(pack_samples(samples, 8), samples)
    assert scanlines(pack_samples(samples, 8), 2).tobytes() == bytes([2, 1, 0, 1, 2, 0, 3, 2])


def test_empty_metadata_has_no_chunk():
    assert [*metadata_before_plte(Metadata()), *metadata_before_idat(Metadata())] == []


def test_a_broken_file_and_frames_of_a_still_image_cannot_be_stripped():
    pixels, frame = chunk(b"IDAT", b"data"), chunk(b"fdAT", b"hidden")
    assert without_metadata(png_file(pixels, chunk(b"tIME", b"now")) + b"more", [], animated=False) == png_file(pixels)
    assert without_metadata(png_file(pixels, frame), [], animated=True) == png_file(pixels, frame)
    assert without_metadata(png_file(pixels, frame), [], animated=False) is None
    assert without_metadata(png_file(pixels)[:-1], [], animated=False) is None


def test_only_color_chunks_of_the_given_kinds_are_not_stripped():
    gamma, profile = chunk(b"gAMA", bytes(4)), chunk(b"iCCP", b"name")
    assert without_metadata(png_file(gamma, profile), [b"gAMA"], animated=False) == png_file(gamma)
