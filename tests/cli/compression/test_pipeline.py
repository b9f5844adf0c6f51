import inspect
import math
import threading
from dataclasses import MISSING, asdict, fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans_cli.commands.compress import compress
from gpukmeans_cli.compression import pipeline
from gpukmeans_cli.compression.pipeline import Settings, StoppedError, compress_picture
from gpukmeans_cli.compression.targets import MinPsnr
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


@pytest.fixture
def photo(tmp_path):
    """A picture of 17 x 11 pixels that are all different."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_settings_and_command_have_the_same_defaults():
    options = inspect.signature(compress).parameters
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    for name in ("any_device", "goal", "root", "turn", "dither_strength"):  # follow from other options
        del defaults[name]
    assert defaults == {name: options[name].default for name in defaults}


def test_the_report_is_of_the_files_on_disk(photo, tmp_path):
    target = tmp_path / "few.png"
    report = compress_picture(photo, target, Settings(n_colors=4, device=CPU)).report
    with Image.open(target) as image:
        assert (report.width, report.height) == image.size == (17, 11)
        assert report.colors_out == len(image.getcolors()) == 4
    assert report.colors_in == 17 * 11
    assert (report.input, report.output, report.mode, report.device) == (str(photo), str(target), "RGB", "cpu")
    assert (report.bytes_in, report.bytes_out) == (photo.stat().st_size, target.stat().st_size)
    assert report.psnr == pytest.approx(10 * math.log10(3 * 255**2 / report.mse), rel=1e-12)


def test_the_stages_add_up_to_the_seconds_of_the_report(photo, tmp_path):
    outcome = compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert list(outcome.stages) == ["read", "count colors", "cluster", "map pixels", "encode", "write"]
    assert min(outcome.stages.values()) > 0
    assert outcome.report.seconds == pytest.approx(sum(outcome.stages.values()))
    assert outcome.frames_left_out == 0
    assert outcome.engine.startswith("matmul")


def test_a_seed_decides_everything_but_the_time(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU, force=True, clustering={"refine": 0, "max_iter": 2})
    one, again, other = (
        compress_picture(photo, tmp_path / "few.png", replace(settings, seed=seed)).report for seed in (0, 0, 1)
    )
    assert asdict(one) | {"seconds": 0} == asdict(again) | {"seconds": 0}
    assert other.mse != one.mse


def test_the_global_generator_of_torch_is_left_alone(photo, tmp_path):
    before = torch.get_rng_state()
    compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n_colors", [187, 256])
def test_a_picture_of_no_more_colors_than_asked_for_is_lossless(photo, tmp_path, n_colors):
    report = compress_picture(photo, tmp_path / "all.png", Settings(n_colors=n_colors, device=CPU)).report
    assert (report.psnr, report.mse, report.iterations, report.converged) == (None, 0, 0, True)
    with Image.open(tmp_path / "all.png") as after, Image.open(photo) as before:
        assert np.array_equal(after.convert("RGB"), before)


def test_an_output_that_exists_is_an_error_before_the_input_is_read(tmp_path):
    taken = tmp_path / "taken.png"
    taken.write_bytes(b"mine")
    with pytest.raises(ImageError, match=r"taken\.png already exists; use --force"):
        compress_picture(tmp_path / "missing.png", taken, Settings(n_colors=4, device=CPU))
    assert taken.read_bytes() == b"mine"


@pytest.mark.parametrize("force", [True, False])
def test_an_output_that_cannot_become_a_file_is_an_error_before_the_input_is_read(tmp_path, force):
    with pytest.raises(ImageError, match="is a folder; name a file in it"):
        compress_picture(tmp_path / "missing.png", tmp_path, Settings(n_colors=4, device=CPU, force=force))


def test_no_engine_is_named_where_nothing_had_to_be_clustered(photo, tmp_path):
    outcome = compress_picture(photo, tmp_path / "all.png", Settings(n_colors=256, device=CPU))
    assert outcome.engine.startswith("none, ")


def test_the_engine_named_is_the_one_that_was_at_work(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(
        MatmulEngine, "obstacle", lambda self, x: "it is out of order" if x.is_floating_point() else None
    )
    outcome = compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert outcome.engine.startswith("torch, the fastest for these colors; triton cannot: its kernels are for cuda")
    assert outcome.engine.endswith("; matmul cannot: it is out of order")


def test_a_tiny_picture_stays_on_the_cpu_unless_a_device_was_asked_for(photo, tmp_path, monkeypatch):
    # "meta" computes nothing, so what is moved there cannot be clustered.
    elsewhere = Settings(n_colors=4, device=torch.device("meta"), any_device=True, force=True)
    assert compress_picture(photo, tmp_path / "few.png", elsewhere).report.device == "cpu"
    with pytest.raises(NotImplementedError):
        compress_picture(photo, tmp_path / "few.png", replace(elsewhere, any_device=False))
    monkeypatch.setattr(pipeline, "_FEW_PIXELS", 17 * 11)
    with pytest.raises(NotImplementedError):
        compress_picture(photo, tmp_path / "few.png", elsewhere)


def test_an_output_that_appears_meanwhile_is_kept(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        (tmp_path / "few.png").write_bytes(b"theirs")
        return original(*args, **options)

    original = pipeline.encode_still
    monkeypatch.setattr(pipeline, "encode_still", encode_still)
    with pytest.raises(ImageError, match=r"few\.png already exists; use --force"):
        compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert (tmp_path / "few.png").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "cpu is out of memory; use --device"),
        (MemoryError(), "out of memory; use a smaller picture"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; use"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "out of memory; use"),
    ],
    ids=["gpu", "python", "linux", "windows"],
)
@pytest.mark.parametrize("stage", ["unique_colors", "fit_palette", "encode_still"])
def test_memory_that_runs_out_is_an_error_of_the_file(photo, tmp_path, monkeypatch, stage, error, sentence):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(pipeline, stage, fail)
    with pytest.raises(ImageError, match=sentence):
        compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert list(tmp_path.iterdir()) == [photo]


def test_any_other_error_of_torch_is_not_called_a_lack_of_memory(photo, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("expected scalar type Long")

    monkeypatch.setattr(pipeline, "fit_palette", fail)
    with pytest.raises(RuntimeError, match="scalar type"):
        compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))


def test_a_cuda_device_is_waited_for_before_the_time_is_taken(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = pipeline.Clock(torch.device("cuda:1"))
    clock.lap("read")
    assert waited == [torch.device("cuda:1")]
    assert clock.stages["read"] > 0


def test_work_that_is_to_stop_ends_before_it_writes(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        settings.stop.set()
        return original(*args, **options)

    original, settings = pipeline.encode_still, Settings(n_colors=4, device=CPU)
    monkeypatch.setattr(pipeline, "encode_still", encode_still)
    with pytest.raises(StoppedError):
        compress_picture(photo, tmp_path / "few.png", settings)
    assert list(tmp_path.iterdir()) == [photo]


def test_a_dry_run_does_all_but_write(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU)
    dry = compress_picture(photo, tmp_path / "few.png", replace(settings, dry_run=True)).report
    assert list(tmp_path.iterdir()) == [photo]
    wet = compress_picture(photo, tmp_path / "few.png", settings).report
    assert asdict(dry) | {"seconds": 0} == asdict(wet) | {"seconds": 0, "written": False}


def test_what_is_clustered_waits_for_its_turn_and_what_is_read_and_encoded_does_not(photo, tmp_path, monkeypatch):
    held = {}

    def watch(stage):
        original = getattr(pipeline, stage)

        def watched(*args, **options):
            held[stage] = turn.locked()
            return original(*args, **options)

        monkeypatch.setattr(pipeline, stage, watched)

    for stage in ("read_source", "unique_colors", "fit_palette", "encode_still", "publish"):
        watch(stage)
    turn = threading.Lock()
    outcome = compress_picture(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU, turn=turn))
    outside, inside = ("read_source", "encode_still", "publish"), ("unique_colors", "fit_palette")
    assert held == dict.fromkeys(outside, False) | dict.fromkeys(inside, True)
    assert "wait" in outcome.stages


def test_a_quality_is_sought_without_encoding_what_is_only_tried(photo, tmp_path, monkeypatch):
    def encode_still(*args, **options):
        encoded.append(len(args[0]))
        return original(*args, **options)

    original, encoded = pipeline.encode_still, []
    monkeypatch.setattr(pipeline, "encode_still", encode_still)
    settings = Settings(n_colors=4, device=CPU, goal=MinPsnr(20))
    report = compress_picture(photo, tmp_path / "few.png", settings).report
    assert encoded == [report.colors_out]


def test_folders_are_made_in_the_folder_for_outputs_and_links_do_not_lead_out_of_it(photo, tmp_path):
    settings = Settings(n_colors=4, device=CPU, root=tmp_path / "out", force=True)
    compress_picture(photo, tmp_path / "out" / "a" / "b" / "few.png", settings)
    assert (tmp_path / "out" / "a" / "b" / "few.png").is_file()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "few.png").symlink_to(tmp_path / "elsewhere" / "few.png")
    for target in (tmp_path / "out" / "away" / "few.png", tmp_path / "out" / "few.png"):
        with pytest.raises(ImageError, match=r"few\.png leads out of .*out by a symbolic link; remove the link"):
            compress_picture(photo, target, settings)
    assert list((tmp_path / "elsewhere").iterdir()) == []
