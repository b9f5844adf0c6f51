import pytest

from gpukmeans_cli.compression.quality_scale import error_of_quality, quality_of_error


def test_qualities_and_errors_are_inverse():
    for quality in (5, 50, 80, 99):
        assert quality_of_error(error_of_quality(quality)) == pytest.approx(quality)
    assert quality_of_error(0) == 100
    assert quality_of_error(1e30) == 0
