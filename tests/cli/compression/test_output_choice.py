"""Outputs that exist or that lead out of a folder."""

import pytest
import torch

from gpukmeans_cli.compression import quantized_image
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


def test_an_output_created_during_compression_is_not_overwritten(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        (tmp_path / "few.png").write_bytes(b"other")
        return original(*args, **options)

    original = quantized_image.encode_still
    monkeypatch.setattr(quantized_image, "encode_still", encode_still)
    with pytest.raises(ImageError, match=r"few\.png already exists; use --force"):
        compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert (tmp_path / "few.png").read_bytes() == b"other"


def test_folders_are_created_below_the_root_and_links_out_of_it_are_an_error(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU, root=tmp_path / "out", force=True)
    compress_image(photo, tmp_path / "out" / "a" / "b" / "few.png", settings)
    assert (tmp_path / "out" / "a" / "b" / "few.png").is_file()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "few.png").symlink_to(tmp_path / "elsewhere" / "few.png")
    for output in (tmp_path / "out" / "away" / "few.png", tmp_path / "out" / "few.png"):
        with pytest.raises(ImageError, match=r"few\.png leads out of .*out by a symbolic link; remove the link"):
            compress_image(photo, output, settings)
    assert list((tmp_path / "elsewhere").iterdir()) == []
