import numpy as np
import pytest

from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import (
    assembled,
    before_palette,
    before_pixels,
    chunk,
    chunks,
    depth_for,
    packed,
    rows_of,
)


def test_what_is_assembled_is_taken_apart_again():
    parts = [(b"IHDR", b"head"), (b"IDAT", b""), (b"IEND", b"")]
    data = assembled(*(chunk(*part) for part in parts[:2]))
    assert list(chunks(data)) == parts


@pytest.mark.parametrize("end", range(8, 40))
def test_what_is_cut_off_or_broken_is_an_error(end):
    data = assembled(chunk(b"IHDR", b"head"), chunk(b"IDAT", b"data"))
    with pytest.raises(SyntaxError, match="cut off"):
        list(chunks(data[:end]))
    with pytest.raises(SyntaxError, match=r"broken|cut off"):
        list(chunks(data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]))


@pytest.mark.parametrize(("n_colors", "depth"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_the_depth_is_the_least_that_holds_all_indices(n_colors, depth):
    assert depth_for(n_colors) == depth


def test_samples_are_packed_from_the_highest_bits_on():
    samples = np.array([[1, 0, 1], [0, 3, 2]], dtype=np.uint8)
    assert packed(samples, 2).tolist() == [[0b01000100], [0b00111000]]
    assert packed(samples, 4).tolist() == [[0x10, 0x10], [0x03, 0x20]]
    assert np.array_equal(packed(samples, 8), samples)
    assert rows_of(packed(samples, 8), 2) == bytes([2, 1, 0, 1, 2, 0, 3, 2])


def test_no_metadata_is_no_chunk():
    assert [*before_palette(Metadata()), *before_pixels(Metadata())] == []
