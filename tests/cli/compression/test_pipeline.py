import inspect
import math
import threading
from dataclasses import MISSING, asdict, fields, replace

import numpy as np
import pytest
import torch
from helpers.stages import STAGES
from PIL import Image

from gpukmeans.engines import choose
from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans_cli.commands.compress import compress
from gpukmeans_cli.compression import input_frames, palette_fit, quantized_image
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings, StageTimer, StoppedError
from gpukmeans_cli.compression.targets import MinPsnr
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


@pytest.fixture
def photo(tmp_path):
    """An image of 17 x 11 pixels, all of different colors."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_settings_and_command_have_the_same_defaults():
    options = inspect.signature(compress).parameters
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    for name in ("any_device", "target", "root", "gpu_lock", "dither_strength", "optional_output", "on_try"):
        del defaults[name]  # set from other options
    for name in ("dither", "lossy", "effort"):
        del defaults[name]  # those of the command depend on the file
    assert defaults == {name: options[name].default for name in defaults}


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


@pytest.mark.parametrize("dither", ["none", "bayer"])
@pytest.mark.parametrize("name", ["fixed", "palette"])
def test_the_alpha_of_a_color_that_no_pixel_uses_does_not_change_the_error(photo, tmp_path, name, dither):
    colors = np.array([[9, 90, 99], [200, 99, 3]], np.uint8)
    with_unused = np.concatenate([np.insert(colors, 3, 255, axis=1), np.zeros((1, 4), np.uint8)])
    expected, found = (
        compress_image(
            photo,
            tmp_path / f"{len(given)}.png",
            Settings(n_colors=len(given), device=CPU, dither=dither, **{name: given}),
        ).report
        for given in (colors, with_unused)
    )
    assert found.colors_out == 2
    assert (found.mse, found.psnr) == (expected.mse, expected.psnr)


def test_the_seconds_of_the_report_are_the_sum_of_the_stages(photo, tmp_path):
    result = compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert list(result.stages) == ["read", "count colors", "cluster", "map pixels", "encode", "write"]
    assert min(result.stages.values()) > 0
    assert result.report.seconds == pytest.approx(sum(result.stages.values()))
    assert result.dropped_frames == 0
    assert result.engine.startswith(choose("auto", torch.zeros(1, 3)).name)


@pytest.mark.parametrize(("n_colors", "default"), [(7, False), (8, True), (32, True), (33, False)])
def test_flat_pixels_are_counted_by_default_with_8_to_32_colors(photo, tmp_path, monkeypatch, n_colors, default):
    counted = []
    count = palette_fit.flat_counts
    monkeypatch.setattr(palette_fit, "flat_counts", lambda *args, **kwargs: counted.append(1) or count(*args, **kwargs))
    for keep_vivid, expected in ((None, default), (True, True), (False, False)):
        settings = Settings(n_colors=n_colors, device=CPU, keep_vivid=keep_vivid, force=True)
        compress_image(photo, tmp_path / "few.png", settings)
        assert bool(counted) == expected
        counted.clear()


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


def test_no_engine_is_named_if_nothing_is_clustered(photo, tmp_path):
    result = compress_image(photo, tmp_path / "all.png", Settings(n_colors=256, device=CPU))
    assert result.engine.startswith("none, ")


def test_the_engine_that_clustered_is_named(photo, tmp_path, monkeypatch):
    for engine in (NativeEngine, MatmulEngine):
        monkeypatch.setattr(
            engine, "unsupported_reason", lambda self, x: "it is broken" if x.is_floating_point() else None
        )
    result = compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert result.engine.startswith(
        "plain, the fastest for these colors; native cannot: it is broken; matmul cannot: it is broken"
    )


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({"dither": "optimized"}, True),
        ({"dither": None, "lossy": None}, True),
        ({"lossy": 5.0}, True),
        ({"dither": "bayer"}, False),
        ({}, False),
        ({"dither": "optimized", "n_colors": 256}, False),  # lossless
    ],
)
def test_optimizing_many_pixels_without_native_kernels_is_noted(photo, tmp_path, monkeypatch, changes, lacks):
    settings = replace(Settings(n_colors=4, device=CPU, force=True), **changes)
    monkeypatch.setattr(NativeEngine, "unsupported_reason", lambda self, x: "there are none")
    assert not compress_image(photo, tmp_path / "few.png", settings).lacks_kernels
    monkeypatch.setattr(quantized_image, "MANY_PIXELS", 100)
    assert compress_image(photo, tmp_path / "few.png", settings).lacks_kernels == lacks


def test_a_small_image_is_clustered_on_the_cpu_with_any_device_only(photo, tmp_path, monkeypatch):
    # The device "meta" computes nothing, so clustering raises there.
    meta = Settings(n_colors=4, device=torch.device("meta"), any_device=True, force=True)
    assert compress_image(photo, tmp_path / "few.png", meta).report.device == "cpu"
    with pytest.raises(NotImplementedError):
        compress_image(photo, tmp_path / "few.png", replace(meta, any_device=False))
    monkeypatch.setattr(input_frames, "MIN_GPU_PIXELS", 17 * 11)
    with pytest.raises(NotImplementedError):
        compress_image(photo, tmp_path / "few.png", meta)


def test_an_output_created_during_compression_is_not_overwritten(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        (tmp_path / "few.png").write_bytes(b"other")
        return original(*args, **options)

    original = quantized_image.encode_still
    monkeypatch.setattr(quantized_image, "encode_still", encode_still)
    with pytest.raises(ImageError, match=r"few\.png already exists; use --force"):
        compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert (tmp_path / "few.png").read_bytes() == b"other"


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


def test_the_timer_synchronizes_a_cuda_device(monkeypatch):
    synchronized = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronized.append)
    timer = StageTimer(torch.device("cuda:1"))
    timer.lap("read")
    assert synchronized == [torch.device("cuda:1")]
    assert timer.stages["read"] > 0


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
