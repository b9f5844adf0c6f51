"""Results on a CUDA device have the bits of the CPU. Without CUDA the device is pretended."""

import contextlib

import pytest
import torch
from helpers import pretended_cuda
from helpers.cuda_devices import moved
from helpers.problems import BATCH, blobs, random_image, seeded

import gpukmeans
import gpukmeans.points.streaming as streaming
from gpukmeans import (
    Batches,
    Checkpoint,
    apply_palette,
    assign,
    fit_palette,
    kmeans,
    mean_squared_error,
    mean_visible_error,
    quantize,
    unique_colors,
)

pytest.importorskip("triton")

POINTS = blobs(120)
WEIGHTS = torch.rand(120, generator=seeded(3))


def tensors_of(value):
    """All tensors of a result, by name."""
    if isinstance(value, torch.Tensor):
        return {"": value}
    items = value.items() if isinstance(value, dict) else vars(value).items() if hasattr(value, "__dict__") else ()
    items = value._asdict().items() if hasattr(value, "_asdict") else items
    items = enumerate(value) if isinstance(value, list) else items
    return {f"{key}.{name}": tensor for key, item in items for name, tensor in tensors_of(item).items()}


def assert_equal_on(device, function, *args, **options):
    """The tensors that the function returns are on the device of its arguments, and have equal bits on both devices."""
    expected = tensors_of(function(*args, **options))
    found = tensors_of(function(*moved(args, device), **moved(options, device)))
    assert expected.keys() == found.keys()
    assert expected
    for name, tensor in expected.items():
        assert found[name].device.type == "cuda", name
        assert torch.equal(found[name].cpu(), tensor), name


@pytest.mark.filterwarnings("ignore:.*clusters")
class TestKmeans:
    @pytest.mark.parametrize(
        "init",
        ["k-means++", "k-means||", "random", POINTS[:6]],
        ids=lambda init: init if isinstance(init, str) else "given",
    )
    def test_every_init(self, cuda, init):
        assert_equal_on(cuda, kmeans, POINTS, 6, init=init, max_iter=4)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
    def test_every_kind_of_number(self, cuda, dtype):
        assert_equal_on(cuda, kmeans, (POINTS.abs() * 3).to(dtype), 4, max_iter=3)

    @pytest.mark.parametrize("width", [1, 8, 9, 40])
    def test_every_engine_of_a_width(self, cuda, width):
        x = blobs(60, width)
        engines = ["screened", "plain", "matmul"] if width > 8 else ["auto", "plain", "triton"]
        for engine in engines:
            found = kmeans(x.to(cuda), 5, max_iter=3, engine=engine)
            expected = kmeans(x, 5, max_iter=3)
            assert torch.equal(found.centers.cpu(), expected.centers)
            assert torch.equal(found.labels.cpu(), expected.labels)

    @pytest.mark.parametrize(
        "options",
        [
            {"weights": WEIGHTS},
            {"weights": WEIGHTS > 0.5},
            {"metric": "cosine"},
            {"refine": 1},
            {"n_init": 3},
            {"fixed": POINTS[:2] + 1},
            {"weights": WEIGHTS, "metric": "cosine", "fixed": POINTS[:1], "n_init": 2},
        ],
        ids=lambda options: " ".join(options),
    )
    def test_every_option(self, cuda, options):
        assert_equal_on(cuda, kmeans, POINTS, 5, max_iter=4, **options)

    def test_a_batch_of_problems_of_its_own_weights(self, cuda):
        weights = torch.rand(BATCH.shape[:2], generator=seeded(1))
        assert_equal_on(cuda, kmeans, BATCH, 4, weights=weights, max_iter=4)

    def test_runs_that_end_at_different_iterations(self, cuda):
        assert_equal_on(cuda, kmeans, BATCH, 4, n_init=3, init="random", tol=0)

    def test_clusters_that_become_empty(self, cuda):
        far = torch.cat([POINTS[:3], torch.full((2, 3), 1e4)])
        assert_equal_on(cuda, kmeans, POINTS, 5, init=far, max_iter=9)

    def test_more_clusters_than_distinct_points(self, cuda):
        assert_equal_on(cuda, kmeans, POINTS[:3].repeat(4, 1), 5)

    def test_a_stream_of_batches(self, cuda):
        batches = [POINTS[:50], POINTS[50:51], POINTS[51:]]
        expected = kmeans(batches, 4, max_iter=3)
        found = kmeans(Batches(moved(batches, cuda)), 4, max_iter=3)
        assert torch.equal(found.centers.cpu(), expected.centers)
        copied = kmeans(Batches(batches, device=cuda), 4, max_iter=3)
        assert copied.centers.device.type == "cuda"
        assert torch.equal(copied.centers.cpu(), expected.centers)

    def test_a_callback_receives_equal_numbers(self, cuda):
        received = {}
        for device in ("cpu", cuda):
            received[device] = []
            kmeans(POINTS.to(device), 4, callback=lambda *seen, d=device: received[d].append(moved(seen, "cpu")))
        for found, expected in zip(received[cuda], received["cpu"], strict=True):
            assert found[0] == expected[0]
            assert torch.equal(found[1], expected[1])

    @pytest.mark.parametrize("every", [1, 3])
    def test_a_checkpoint_has_equal_bits_and_continues_on_the_other_device(self, cuda, every):
        states = {"cpu": [], cuda: []}
        for device, saved in states.items():
            kmeans(POINTS.to(device), 6, init="random", tol=0, checkpoint=Checkpoint(saved.append, every=every))
        assert len(states["cpu"]) == len(states[cuda]) > 1
        for expected, found in zip(states["cpu"], states[cuda], strict=True):
            assert expected.keys() == found.keys()
            for name, tensor in expected.items():
                assert torch.equal(found[name].cpu(), tensor), name
        checkpoint = Checkpoint(lambda state: None, every=every, state=states["cpu"][1])
        resumed = kmeans(POINTS.to(cuda), 6, init="random", tol=0, checkpoint=checkpoint)
        assert torch.equal(resumed.centers.cpu(), kmeans(POINTS, 6, init="random", tol=0).centers)

    def test_assign(self, cuda):
        assert_equal_on(cuda, assign, POINTS, POINTS[:7])
        assert_equal_on(cuda, assign, BATCH, BATCH[:, :5])


class TestStreams:
    class Table:
        """A table of points that records the rows that are read from it."""

        shape = POINTS.shape

        def __init__(self):
            self.starts = []

        def __getitem__(self, rows):
            self.starts.append(rows.start)
            return POINTS[rows]

    def reads_of_batches(self, device):
        """How often each batch of 50 rows is read in one clustering, after the first batch was read for its dtype."""
        table = self.Table()
        found = kmeans(Batches(table, 50, device=device), 4, max_iter=3)
        expected = kmeans(POINTS, 4, max_iter=3, init="k-means||")
        assert torch.equal(found.centers.cpu(), expected.centers)
        return [table.starts[1:].count(start) for start in (0, 50, 100)]

    def test_a_batch_is_copied_once_if_all_batches_fit_on_the_device(self, cuda):
        # The thread that reads ahead for the dtype also reads the second batch.
        assert self.reads_of_batches(cuda) == [1, 2, 1]

    def test_only_the_batches_that_do_not_fit_are_copied_again(self, cuda, monkeypatch):
        n_bytes = POINTS[:50].nbytes
        monkeypatch.setattr(streaming, "_KEPT_SHARE", 1.0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (n_bytes + 1, 1 << 30))
        first, second, third = self.reads_of_batches(cuda)
        assert first == 1
        assert third > 10
        assert second == third + 1

    def test_a_source_that_cannot_start_in_the_middle_has_equal_bits(self, cuda, monkeypatch):
        batches = [POINTS[:50], POINTS[50:50], POINTS[50:51], POINTS[51:]]
        expected = kmeans(batches, 4, max_iter=3)
        for n_bytes in (0, POINTS[:52].nbytes, 1 << 20):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None, n=n_bytes: (4 * n, 1 << 30))
            found = kmeans(Batches(batches, device=cuda), 4, max_iter=3)
            assert torch.equal(found.centers.cpu(), expected.centers)


def clusterings(device):
    """Centers, labels and indices of a few calls for tensors on a device."""
    x, image = POINTS[:30].to(device), TestPictures.IMAGE[:5, :6].to(device)
    wide, batches = blobs(20, 12).to(device), Batches([POINTS[:20], POINTS[20:30]], device=device)
    return [
        *tensors_of(kmeans(x, 4, weights=WEIGHTS[:30].to(device), n_init=2, refine=1, max_iter=1)).values(),
        *tensors_of(kmeans(wide, 3, init="random", max_iter=1)).values(),
        kmeans(batches, 3, max_iter=1).centers,
        *quantize(image, 6, max_iter=1, dither="floyd-steinberg"),
        quantize(image[:3, :4], 3, lossy=20, rounds=1, max_iter=1).indices,
    ]


class TestSettings:
    def test_algorithms_that_must_be_deterministic(self, cuda):
        expected = clusterings("cpu")
        torch.use_deterministic_algorithms(True)
        try:
            found = clusterings(cuda)
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))

    def test_a_device_that_is_not_the_current_one(self):
        if torch.cuda.device_count() == 1:
            pytest.skip("there is one CUDA device")
        is_real = torch.cuda.is_available()
        if not is_real and (reason := pretended_cuda.unsupported_reason()):
            pytest.skip(reason)
        expected = clusterings("cpu")
        with contextlib.nullcontext() if is_real else pretended_cuda.pretended_cuda(index=1):
            found = clusterings("cuda:1")
            assert {str(one.device) for one in found} == {"cuda:1"}
            assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


class TestPictures:
    IMAGE = random_image(11, 13, 3, 60, 0)

    @pytest.mark.parametrize("space", ["srgb", "oklab", "linear"])
    def test_every_space(self, cuda, space):
        assert_equal_on(cuda, quantize, self.IMAGE, 6, space=space, max_iter=3)

    # The optimizer is tested in tests/engines/fused/test_optimizing.py.
    @pytest.mark.parametrize("dither", sorted(set(gpukmeans.DITHERINGS) - {"optimized"}))
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_every_dithering_of_every_kind_of_image(self, cuda, dither, channels):
        image = random_image(9, 10, channels, 256, channels)
        if channels in (2, 4):
            image[:4, :, -1] = 255
            image[4, :, -1] = 0
        palette = image.flatten(0, 1)[::19]
        assert_equal_on(cuda, apply_palette, image, palette, dither=dither, strength=0.9)

    @pytest.mark.parametrize("rate", ["png", "gif"])
    def test_lossy(self, cuda, rate):
        assert_equal_on(cuda, quantize, self.IMAGE[:4, :5], 3, lossy=20, rounds=1, rate=rate, max_iter=2)

    def test_a_batch_of_images(self, cuda):
        images = torch.stack([random_image(6, 8, 3, 90, seed) for seed in (4, 5)])
        assert_equal_on(cuda, quantize, images, 4, max_iter=2)

    def test_small_vivid_areas_and_polishing(self, cuda):
        image = self.IMAGE.clone()
        image[:3, :3] = torch.tensor([255, 0, 0], dtype=torch.uint8)
        assert_equal_on(cuda, quantize, image, 8, keep_vivid=True, polish=1, max_iter=2)

    def test_histogram_and_palette(self, cuda):
        assert_equal_on(cuda, lambda image: fit_palette(unique_colors(image), 7), self.IMAGE)

    def test_errors_of_a_quantized_image(self, cuda):
        def errors(image):
            found = quantize(image, 4, max_iter=2)
            return [mean_squared_error(image, found), mean_visible_error(image, found)]

        expected = errors(self.IMAGE)
        found = errors(self.IMAGE.to(cuda))
        assert float(found[0]) == float(expected[0])
        assert float(found[1]) == pytest.approx(float(expected[1]))
