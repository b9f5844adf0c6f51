import math
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers.stages import STAGES
from PIL import Image

from gpukmeans.engines import choose
from gpukmeans_cli.compression import palette_fit, quantized_image
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings, StoppedError
from gpukmeans_cli.compression.targets import MinPsnr
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


def test_the_report_matches_the_files_on_disk(photo, tmp_path):
    output = tmp_path / "few.png"
    report = compress_image(photo, output, Settings(n_colors=4, device=CPU)).report
    with Image.open(output) as image:
        assert (report.width, report.height) == image.size == (17, 11)
        assert report.colors_out == len(image.getcolors()) == 4
    assert report.colors_in == 17 * 11
    assert (report.input, report.output, report.mode, report.device) == (str(photo), str(output), "RGB", "cpu")
    assert (report.bytes_in, report.bytes_out) == (photo.stat().st_size, output.stat().st_size)
    assert report.psnr == pytest.approx(10 * math.log10(3 * 255**2 / report.mse), rel=1e-12)


def test_the_seconds_of_the_report_are_the_sum_of_the_stages(photo, tmp_path):
    result = compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert list(result.stages) == ["read", "count colors", "cluster", "map pixels", "encode", "write"]
    assert min(result.stages.values()) > 0
    assert result.report.seconds == pytest.approx(sum(result.stages.values()))
    assert result.dropped_frames == 0
    assert result.engine.startswith(choose("auto", torch.zeros(1, 3)).name)


def test_equal_seeds_give_equal_reports_except_for_the_time(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU, force=True, clustering={"refine": 0, "max_iter": 2})
    one, again, other = (
        compress_image(photo, tmp_path / "few.png", replace(settings, seed=seed)).report for seed in (0, 0, 1)
    )
    assert asdict(one) | {"seconds": 0} == asdict(again) | {"seconds": 0}
    assert other.mse != one.mse


def test_the_global_generator_of_torch_is_unchanged(photo, tmp_path):
    before = torch.get_rng_state()
    compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n_colors", [187, 256])
def test_an_image_with_at_most_n_colors_is_lossless(photo, tmp_path, n_colors):
    report = compress_image(photo, tmp_path / "all.png", Settings(n_colors=n_colors, device=CPU)).report
    assert (report.psnr, report.mse, report.iterations, report.converged) == (None, 0, 0, True)
    with Image.open(tmp_path / "all.png") as after, Image.open(photo) as before:
        assert np.array_equal(after.convert("RGB"), before)


def test_an_existing_output_is_an_error_before_the_input_is_read(tmp_path):
    old = tmp_path / "old.png"
    old.write_bytes(b"first")
    with pytest.raises(ImageError, match=r"old\.png already exists; use --force"):
        compress_image(tmp_path / "missing.png", old, Settings(n_colors=4, device=CPU))
    assert old.read_bytes() == b"first"


@pytest.mark.parametrize("force", [True, False])
def test_an_output_that_is_a_folder_is_an_error_before_the_input_is_read(tmp_path, force):
    with pytest.raises(ImageError, match="is a folder; name a file in it"):
        compress_image(tmp_path / "missing.png", tmp_path, Settings(n_colors=4, device=CPU, force=force))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "cpu is out of memory; use --device"),
        (MemoryError(), "out of memory; use a smaller image"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; use"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "out of memory; use"),
    ],
    ids=["gpu", "python", "linux", "windows"],
)
@pytest.mark.parametrize("stage", ["unique_colors", "fit_palette", "encode_still"])
def test_running_out_of_memory_is_an_image_error(photo, tmp_path, monkeypatch, stage, error, sentence):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(STAGES[stage], stage, fail)
    with pytest.raises(ImageError, match=sentence):
        compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert list(tmp_path.iterdir()) == [photo]


def test_other_errors_of_torch_are_raised_unchanged(photo, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("expected scalar type Long")

    monkeypatch.setattr(palette_fit, "fit_palette", fail)
    with pytest.raises(RuntimeError, match="scalar type"):
        compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))


def test_stopped_work_writes_nothing(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        settings.stop.set()
        return original(*args, **options)

    original, settings = quantized_image.encode_still, Settings(n_colors=4, device=CPU)
    monkeypatch.setattr(quantized_image, "encode_still", encode_still)
    with pytest.raises(StoppedError):
        compress_image(photo, tmp_path / "few.png", settings)
    assert list(tmp_path.iterdir()) == [photo]


def test_a_dry_run_gives_the_same_report_without_writing(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU)
    dry = compress_image(photo, tmp_path / "few.png", replace(settings, dry_run=True)).report
    assert list(tmp_path.iterdir()) == [photo]
    wet = compress_image(photo, tmp_path / "few.png", settings).report
    assert asdict(dry) | {"seconds": 0} == asdict(wet) | {"seconds": 0, "written": False}


def test_the_gpu_lock_is_held_while_clustering_but_not_while_reading_or_encoding(photo, tmp_path, monkeypatch):
    held = {}

    def record(stage):
        original = getattr(STAGES[stage], stage)

        def recorded(*args, **options):
            held[stage] = gpu_lock.locked()
            return original(*args, **options)

        monkeypatch.setattr(STAGES[stage], stage, recorded)

    for stage in STAGES:
        record(stage)
    gpu_lock = threading.Lock()
    result = compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU, gpu_lock=gpu_lock))
    outside, inside = ("read_source", "encode_still", "write_atomically"), ("unique_colors", "fit_palette")
    assert held == dict.fromkeys(outside, False) | dict.fromkeys(inside, True)
    assert "wait" in result.stages


def test_a_search_for_a_psnr_encodes_only_its_result(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        encoded.append(len(args[0]))
        return original(*args, **options)

    original, encoded = quantized_image.encode_still, []
    monkeypatch.setattr(quantized_image, "encode_still", encode_still)
    settings = Settings(n_colors=4, device=CPU, target=MinPsnr(20))
    report = compress_image(photo, tmp_path / "few.png", settings).report
    assert encoded == [report.colors_out]
