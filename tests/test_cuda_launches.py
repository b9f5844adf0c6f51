"""Ceilings of kernel launches and host synchronizations on CUDA, counted on the pretended device.

A GPU that computes on few points waits for launches of about 5 µs and synchronizations of about 15 µs each, so their
numbers must not grow with the number of points or pixels.
"""

import numpy as np
import pytest
import torch
from helpers import pretended_cuda
from helpers.problems import random_image, seeded
from PIL import Image
from sklearn.datasets import load_sample_image

from gpukmeans import DITHERINGS, ENGINES, Batches, apply_palette, kmeans, quantize
from gpukmeans.images.contrast import contrast_weights
from gpukmeans.images.dithering import floyd_steinberg
from gpukmeans.images.rate_distortion import Objective, optimized
from gpukmeans.points.tensor import tensor_points
from gpukmeans.seeding import kmeans_plus_plus

pytest.importorskip("triton")

_REASON = pretended_cuda.unsupported_reason()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


@pytest.fixture
def log():
    with pretended_cuda.pretended_cuda() as log:
        yield log


def counted(log, function, *args, **options):
    """The numbers of launches and synchronizations of a call. A first call makes what later calls use again."""
    function(*args, **options)
    log.clear()
    function(*args, **options)
    return log.launches, log.syncs


def per_unit(log, function, few, many):
    """Launches and synchronizations of one unit: the difference of calls of `many` and of `few` units."""
    costs = [counted(log, function, n) for n in (few, many)]
    return tuple((more - less) / (many - few) for less, more in zip(*costs, strict=True))


def values(n, width):
    return torch.rand(n, width, generator=seeded()).to("cuda")


@pytest.mark.parametrize("n", [40, 140])
def test_an_iteration_takes_at_most_6_launches_and_8_take_one_synchronization(log, n):
    x = torch.linspace(0, 1, n).square()[:, None].to("cuda")

    def cluster(n_iter):
        # The initial centers are the first points, so that the loop is long.
        assert kmeans(x, 8, init=x[:8], tol=0, max_iter=n_iter).n_iter == n_iter

    launches, syncs = per_unit(log, cluster, 7, 15)
    assert launches <= 6
    assert syncs <= 1 / 8


@pytest.mark.parametrize("n", [50, 1100])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_center_by_k_means_plus_plus_takes_at_most_6_launches_and_no_synchronization(log, n, weighted):
    x, weights = values(n, 3)[None], values(1, n) if weighted else None
    points = tensor_points(x, weights, ENGINES["triton"], torch.float32)

    def seed(n_centers):
        kmeans_plus_plus(points, n_centers, seeded())

    # Both numbers have equally many candidates a center.
    launches, syncs = per_unit(log, seed, 4, 6)
    assert launches <= 6
    assert syncs == 0


def test_ten_runs_take_a_third_more_launches_than_one(log):
    x = values(20, 2)
    (one, _), (ten, syncs) = (counted(log, kmeans, x, 2, n_init=n_init, max_iter=1, tol=0) for n_init in (1, 10))
    assert one <= 56
    assert ten <= 75
    assert syncs <= 4


@pytest.mark.parametrize("n", [34, 100])
def test_a_batch_of_a_stream_takes_few_launches(log, n):
    def cluster(n_batches):
        batches = [values(n, 3)] * n_batches
        kmeans(Batches(batches), 33, init=batches[0][:33], max_iter=1, tol=0)

    launches, syncs = per_unit(log, cluster, 2, 4)
    assert launches <= 60
    assert syncs <= 10


@pytest.mark.parametrize("side", [8, 20])
def test_floyd_steinberg_takes_at_most_12_launches(log, side):
    image = random_image(side, side, 3, 256, 0).to("cuda")
    palette, nearest = image[0, :6], torch.zeros(side, side, dtype=torch.uint8, device="cuda")
    launches, syncs = counted(log, floyd_steinberg, image, palette, nearest, 256)
    assert launches <= 12
    assert syncs <= 5


def test_a_batch_of_images_is_clustered_by_few_more_launches_than_one_image(log):
    images = torch.stack([random_image(6, 7, 3, 60, seed) for seed in range(5)]).to("cuda")
    few, many = (counted(log, quantize, images[:n], 4, refine=1, max_iter=2, tol=0.0) for n in (2, 4))
    assert few[0] <= 400
    # A further image is not clustered, but its colors are counted and assigned.
    assert (many[0] - few[0]) / 2 <= 100


def test_floyd_steinberg_of_a_batch_takes_as_many_launches_as_of_one_image(log):
    images = torch.stack([random_image(8, 7, 3, 256, seed) for seed in range(3)]).to("cuda")
    counts = [
        counted(log, apply_palette, batch, images[0, 0, :6], dither="floyd-steinberg") for batch in (images[:1], images)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dither", sorted(set(DITHERINGS) - {"optimized"}))
def test_a_dithering_takes_as_many_launches_for_more_pixels(log, dither):
    counts = []
    for side in (8, 20):
        image = random_image(side, side, 3, 256, 0).to("cuda")
        counts.append(counted(log, apply_palette, image, image[0, :6], dither=dither))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 200


@pytest.mark.parametrize("rate_name", ["png", "gif"])
def test_4_rounds_of_the_rate_optimizer_take_at_most_150_launches_and_10_synchronizations(log, rate_name):
    def cost(side, n_rounds):
        image, palette = random_image(side, side, 3, 256, 0).to("cuda"), random_image(1, 17, 3, 256, 1)[0].to("cuda")
        indices = torch.zeros(side, side, dtype=torch.uint8, device="cuda")
        log.clear()
        weights, objective = contrast_weights(image), Objective(share=208, price=5000)
        optimized(image, palette, indices, objective, n_rounds=n_rounds, rate_name=rate_name, bit_weights=weights)
        return torch.tensor([log.launches, log.syncs])

    one_round = cost(3, 1)
    launches, syncs = (one_round + 3 * (cost(3, 2) - one_round)).tolist()
    assert launches <= 150
    assert syncs <= 10
    assert torch.equal(cost(7, 1), one_round)


@pytest.mark.parametrize("width", [24, 36])
def test_a_quantized_photo_takes_at_most_400_launches_and_15_synchronizations(log, width):
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((width, 2 * width // 3))
    image = torch.from_numpy(np.array(photo)).to("cuda")
    # One refinement cycle and 4 iterations. Each further iteration takes 5 launches.
    launches, syncs = counted(log, quantize, image, 6, refine=1, max_iter=4, tol=0.0)
    assert launches <= 400
    assert syncs <= 15
