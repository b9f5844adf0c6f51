"""Global settings of torch change no bit of any result."""

import ast
import contextlib
import itertools
from pathlib import Path

import pytest
import torch
from helpers.problems import blobs, seeded
from helpers.threads import threads

from gpukmeans import (
    COLOR_SPACES,
    DITHERINGS,
    METRICS,
    Batches,
    Checkpoint,
    KMeans,
    QuantizeColors,
    apply_palette,
    assign,
    kmeans,
    quantize,
    textbook,
)
from gpukmeans.images.dithering import bayer_ranks, blue_noise_ranks

LIBRARY = sorted((Path(__file__).parents[1] / "gpukmeans").rglob("*.py"))
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def matmul_precision(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")  # which sets all devices to "ieee"
        for backend in (torch.backends.cuda, torch.backends.mkldnn):
            backend.matmul.fp32_precision = "none"


@contextlib.contextmanager
def attribute(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def denormals_flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


SETTINGS = {
    "matmul precision high": lambda: matmul_precision("high"),
    "matmul precision medium": lambda: matmul_precision("medium"),
    "TF32 on CUDA, before torch 2.9": lambda: attribute(torch.backends.cuda.matmul, "allow_tf32", True),
    "TF32 on CUDA": lambda: attribute(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "TF32 on the CPU": lambda: attribute(torch.backends.mkldnn.matmul, "fp32_precision", "tf32"),
    "bfloat16 on the CPU": lambda: attribute(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "TF32 everywhere": lambda: attribute(torch.backends, "fp32_precision", "tf32"),
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic_algorithms,
    "autocast": lambda: autocast(),
    "inference mode": torch.inference_mode,
    "denormals flushed": denormals_flushed,
    "two threads": lambda: threads(2),
}


def autocast():
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=DEVICES)
def inputs(request):
    """Points of few and of many coordinates, weights, and an image, made before a setting."""
    weights, image = torch.arange(200) % 3, torch.randint(256, (24, 20, 3), generator=seeded()).to(torch.uint8)
    return [tensor.to(request.param) for tensor in (blobs(200), blobs(150, width=20), weights, image)]


@pytest.fixture(scope="module")
def expected(inputs):
    return results(*inputs), gradients(*inputs[:2])


def results(few, many, weights, image):
    """Results of all public functions that compute."""
    found = []
    for x, options in (
        (few, {"refine": 1, "init": "k-means||"}),
        (few, {"weights": weights, "n_init": 2}),
        (few.repeat(85, 1), {"max_iter": 3}),
        (many, {}),
        (many, {"metric": "cosine"}),
        (many.double(), {}),
    ):
        result = kmeans(x, 6, **options)
        sqdist = assign(x, result.centers, metric=options.get("metric", "euclidean")).sqdist
        found += [result.centers, result.labels, result.cluster_weights, result.inertia, sqdist]
    states = []
    result = kmeans(Batches(many, 40), 6, tol=0, checkpoint=Checkpoint(states.append))
    again = kmeans(Batches(many, 40), 6, tol=0, checkpoint=Checkpoint(lambda state: None, state=states[-1]))
    found += [result.centers, result.inertia, again.centers, again.inertia]
    model = KMeans(6).fit(many)
    found += [model.centers, model.predict(many), model.transform(many), KMeans(6).partial_fit(few).centers]
    for dither, space in zip(DITHERINGS, itertools.cycle(COLOR_SPACES), strict=False):
        found += quantize(image, 5, dither=dither, space=space)
    return [*found, apply_palette(image, found[-2]).indices, QuantizeColors(5)(image.movedim(2, 0))]


def gradients(*points):
    found = []
    for x in points:
        for metric in METRICS:
            x, centers = x.detach().requires_grad_(), x[:5].detach().requires_grad_()
            found += torch.autograd.grad(assign(x, centers, metric=metric).sqdist[5:].sum(), (x, centers))
    return found


def assert_equal_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_no_bit(setting, inputs, expected):
    with SETTINGS[setting]():
        found = results(*inputs)
    assert_equal_bits(found, expected[0])


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting != "inference mode"])
def test_a_setting_changes_no_bit_of_a_gradient(setting, inputs, expected):
    if inputs[0].device.type == "cuda":
        pytest.skip("on CUDA the bits of gradients depend on the order of sums")
    with SETTINGS[setting]():
        found = gradients(*inputs[:2])
    assert_equal_bits(found, expected[1])


def test_a_setting_is_restored_after_each_test():
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(0).device.type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.tensor(1e-40) / 2 > 0


def test_ordered_dithering_does_not_depend_on_the_default_device():
    expected = blue_noise_ranks(8), bayer_ranks(8)
    blue_noise_ranks.cache_clear()
    with torch.device("meta"):
        found = blue_noise_ranks(8), bayer_ranks(8)
    assert_equal_bits(found, expected)


def test_the_textbook_does_not_depend_on_the_default_device(inputs):
    points, expected = inputs[0].cpu(), textbook.kmeans(inputs[0].cpu(), 4, seeded())
    generator = seeded()
    with torch.device("meta"):
        found = textbook.kmeans(points, 4, generator)
    assert_equal_bits(found, expected)


FACTORIES = {"arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm"}
FACTORIES |= {"tensor", "zeros", "Generator"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_every_tensor_is_made_on_a_device_that_is_given(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in FACTORIES}:
            assert "device" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)
