import numpy as np
import pytest
import torch
from helpers.array_libraries import ArrayOnDisk, DLPackArray, Frame
from helpers.problems import blobs, seeded

from gpukmeans import METRICS, KMeans, assign
from gpukmeans.engines.plain import PlainEngine


def test_assign_computes_in_the_wider_dtype():
    x = torch.tensor([[1.0]])
    assert assign(x, torch.tensor([[1 + 1e-12]], dtype=torch.float64)).sqdist.item() == pytest.approx(1e-24, rel=1e-3)
    assert assign(x, torch.tensor([[2]])).sqdist.dtype == torch.float64
    assert assign(x.half(), torch.tensor([[2]], dtype=torch.uint8)).sqdist.dtype == torch.float32


def test_a_batch_has_centers_for_each_problem_or_shared_ones():
    x, own = torch.rand(2, 3, 40, 2, generator=seeded()), torch.rand(2, 3, 5, 2, generator=seeded(1))
    labels, sqdist = assign(x, own)
    assert torch.equal(labels[1, 2], assign(x[1, 2], own[1, 2]).labels)
    assert torch.equal(sqdist[1, 2], assign(x[1, 2], own[1, 2]).sqdist)
    labels, sqdist = assign(x, own[0, 0])
    assert torch.equal(labels[1, 2], assign(x[1, 2], own[0, 0]).labels)
    assert labels.shape == sqdist.shape == (2, 3, 40)


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, DLPackArray, lambda x: Frame(x.numpy())])
def test_arrays_of_other_libraries_have_the_labels_of_tensors(kind):
    x, centers = torch.rand(40, 3, generator=seeded()), torch.rand(5, 3, generator=seeded(1))
    expected = assign(x, centers)
    for found in (assign(kind(x), kind(centers)), assign(x, kind(centers)), assign(kind(x), centers)):
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.sqdist, expected.sqdist)


def test_a_memory_map_is_assigned_as_a_whole(tmp_path):
    x = torch.rand(40, 3, generator=seeded())
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(assign(mapped, mapped[:4]).labels, assign(x, x[:4]).labels)


@pytest.mark.parametrize("name", ["x", "centers"])
@pytest.mark.parametrize(
    "wrong",
    [[[0.0, 1.0, 2.0]], [torch.zeros(2, 3)], 3, ArrayOnDisk(np.zeros((2, 3)))],
    ids=["numbers", "tensors", "int", "array on disk"],
)
@pytest.mark.usefixtures("unchecked")
def test_points_and_centers_that_are_no_tensor_or_array_are_an_error(name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be a tensor or an array, got {type(wrong).__name__}"):
        assign(**{"x": torch.zeros(2, 3), "centers": torch.zeros(2, 3), name: wrong})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("batch", "of_centers"), [((), ()), ((2, 2), (2, 2)), ((2, 2), ())])
def test_squared_distances_have_first_and_second_gradients(metric, batch, of_centers):
    x = torch.randn(*batch, 4, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    centers = torch.randn(*of_centers, 3, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)

    def sqdist(x, centers):
        return assign(x, centers, metric=metric).sqdist

    assert torch.autograd.gradcheck(sqdist, (x, centers))
    assert torch.autograd.gradgradcheck(sqdist, (x, centers))


@pytest.mark.parametrize(
    ("of_x", "of_centers"),
    [(torch.float16, torch.float16), (torch.bfloat16, torch.float64), (torch.float32, torch.float16)],
)
def test_gradients_are_computed_in_the_wider_dtype_and_have_that_of_the_argument(of_x, of_centers):
    x, centers = blobs(60).to(of_x).requires_grad_(), blobs()[:5].to(of_centers).requires_grad_()
    found = torch.autograd.grad(assign(x, centers).sqdist.sum(), (x, centers))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, centers)]
    expected = torch.autograd.grad(assign(*wide).sqdist.sum(), wide)
    for gradient, exact, argument in zip(found, expected, (x, centers), strict=True):
        assert gradient.dtype == argument.dtype
        torch.testing.assert_close(gradient, exact.to(argument.dtype))


@pytest.mark.parametrize("metric", METRICS)
def test_vmap_maps_points_and_centers_as_a_batch_of_problems(metric):
    x, centers = torch.randn(2, 3, 40, 4, generator=seeded()), torch.randn(2, 3, 5, 4, generator=seeded(1))

    def one(x, centers):
        return assign(x, centers, metric=metric)

    def assert_equal(found, x, centers):
        for result, expected in zip(found, one(x, centers), strict=True):
            assert torch.equal(result, expected)

    assert_equal(torch.vmap(one)(x, centers), x, centers)
    assert_equal(torch.vmap(torch.vmap(one))(x, centers), x, centers)
    assert_equal(torch.vmap(one, (0, None))(x, centers[0, 0]), x, centers[0, 0])
    assert_equal(torch.vmap(one, (0, None))(x, centers[0]), x, centers[[0, 0]])
    assert_equal(torch.vmap(one, (None, 1))(x[0, 0], centers[0].movedim(0, 1)), x[0, :1].expand(3, -1, -1), centers[0])
    assert_equal(torch.vmap(one)(x, centers[:, 0]), x, centers[:, :1].expand(-1, 3, -1, -1))


def test_vmap_gives_the_gradients_of_each_problem():
    x, centers = torch.randn(3, 40, 4, generator=seeded()), torch.randn(3, 5, 4, generator=seeded(1))
    gradients = torch.func.grad(lambda x, centers: assign(x, centers).sqdist.sum(), (0, 1))
    for found, one in zip(torch.vmap(gradients)(x, centers), gradients(x[1], centers[1]), strict=True):
        assert torch.equal(found[1], one)


@pytest.mark.parametrize("width", [3, 40])
def test_the_squared_distance_has_the_same_bits_with_and_without_gradients(width):
    x, centers = torch.randn(50, width, generator=seeded()), torch.randn(6, width, generator=seeded(1))
    labels, sqdist = assign(x.requires_grad_(), centers)
    assert sqdist.requires_grad
    assert not labels.requires_grad
    assert torch.equal(sqdist.detach(), assign(x.detach(), centers).sqdist)


def test_the_cosine_distance_is_one_minus_the_cosine_of_the_nearest_direction():
    x, centers = torch.randn(50, 4, generator=seeded()), torch.randn(6, 4, generator=seeded(1))
    cosines = torch.nn.functional.cosine_similarity(x[:, None], centers, dim=2)
    labels, distance = assign(x, centers, metric="cosine")
    assert torch.equal(labels, cosines.argmax(dim=1))
    torch.testing.assert_close(distance, 1 - cosines.amax(dim=1))


def test_the_custom_operation_passes_the_checks_of_torch():
    x, centers = torch.randn(2, 9, 3, generator=seeded()), torch.randn(4, 3, generator=seeded(1))
    operation = torch.ops.gpukmeans.nearest.default
    assert set(torch.library.opcheck(operation, (x, centers, False, "auto")).values()) == {"SUCCESS"}
    # The other checks of torch add up all outputs in the dtype of the first, which is that of labels.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    with_gradients = x.requires_grad_(), centers.requires_grad_(), False, "auto"
    assert set(torch.library.opcheck(operation, with_gradients, test_utils=checks).values()) == {"SUCCESS"}


def test_a_compiled_vmap_has_the_same_bits(unchecked):
    x, centers = torch.randn(3, 40, 4, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    mapped = torch.vmap(lambda x: assign(x, centers).sqdist)
    assert torch.equal(torch.compile(mapped, fullgraph=True, backend="aot_eager")(x), mapped(x))


# aot_eager captures the whole graph; code generation by a backend is not tested.
def test_a_model_with_the_module_inside_compiles_as_one_graph(unchecked):
    x = blobs()
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), KMeans(5).fit(x))
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize("metric", METRICS)
def test_a_loss_of_squared_distances_compiles_with_its_gradient(metric, unchecked):
    x, centers = blobs().requires_grad_(), blobs()[:5].clone().requires_grad_()

    def loss(x, centers):
        return assign(x, centers, metric=metric).sqdist.mean()

    expected = torch.autograd.grad(loss(x, centers), (x, centers))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x, centers), (x, centers)), expected)


@pytest.mark.parametrize("mode", [torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)])
def test_inference_mode_and_autocast_change_no_bit(mode):
    x, centers = blobs(), blobs()[:5]
    with mode:
        labels, sqdist = assign(x, centers)
    assert torch.equal(labels, assign(x, centers).labels)
    assert torch.equal(sqdist, assign(x, centers).sqdist)


def test_an_engine_may_be_given_as_an_object_and_has_gradients():
    x = blobs().requires_grad_()
    labels, sqdist = assign(x, blobs()[:5], engine=PlainEngine(7))
    assert torch.equal(labels, assign(x, blobs()[:5]).labels)
    assert sqdist.requires_grad
