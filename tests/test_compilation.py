"""The library inside code compiled by `torch.compile`, and without a compiler."""

import shutil
import subprocess
import sys

import pytest
import torch
from helpers.problems import blobs, seeded
from torch import nn

from gpukmeans import (
    ENGINES,
    KMeans,
    QuantizeColors,
    apply_palette,
    assign,
    fit_palette,
    kmeans,
    map_to_palette,
    mean_squared_error,
    quantize,
    unique_colors,
)
from gpukmeans.compilation import eager

WIDTHS = (1, 2, 3, 7, 8, 16, 48)
IMAGE = torch.randint(256, (12, 10, 3), generator=seeded()).to(torch.uint8)


def fit_steps():
    """Functions of one tensor that cluster it between other operations, with an input, by name."""

    def fit(x):
        model = KMeans(4).fit(x * 2)
        return model.predict(x * 2) + 1

    def partial_fit(x):
        model = KMeans(4).partial_fit(x * 2).partial_fit(x * 4)
        return model.centers + model.n_steps_

    def palette(image):
        histogram = unique_colors(image + 1)
        few = map_to_palette(image + 1, histogram, fit_palette(histogram, 5))
        return few.pixels() * 2 + mean_squared_error(image, few)

    generator, quantized = torch.Generator(), QuantizeColors(5)
    return {
        "kmeans": (lambda x: kmeans(x * 2, 4, weights=x[:, 0].abs()).centers * 2, blobs()),
        "a generator": (lambda x: kmeans(x * 2, 4, generator=generator.manual_seed(1)).centers * 2, blobs()),
        "fit": (fit, blobs()),
        "fit_predict": (lambda x: KMeans(4).fit_predict(x * 2) + 1, blobs()),
        "partial_fit": (partial_fit, blobs()),
        "score": (lambda x: x * KMeans(4).fit(x * 2).score(x * 2), blobs()),
        "an engine": (lambda x: assign(x * 2, x[:5], engine=ENGINES["plain"]).sqdist * 2, blobs()),
        "quantize": (lambda image: quantize(image + 1, 5).pixels() * 2, IMAGE),
        "apply_palette": (lambda image: apply_palette(image + 1, image[0]).indices * 2, IMAGE),
        "palettes": (palette, IMAGE),
        "QuantizeColors": (lambda image: quantized(image / 255) * 2, IMAGE.movedim(2, 0)),
    }


@pytest.mark.parametrize("name", fit_steps())
def test_a_fit_inside_compiled_code_runs_eagerly_with_the_same_bits(name, unchecked):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    step, argument = fit_steps()[name]
    torch._dynamo.reset()
    found = torch.compile(step, backend=backend)(argument)
    assert torch.equal(found, step(argument))
    # What the step does before, between and after fits; a fit itself would be dozens of graphs and operations.
    assert 1 <= len(graphs) <= 4
    assert sum(node.op.startswith("call_") for graph in graphs for node in graph.graph.nodes) <= 12


def test_a_compiled_fit_is_not_compiled_again(unchecked):
    torch._dynamo.reset()
    step = torch.compile(lambda x: kmeans(x * 2, 4).centers + 1, backend="eager")
    step(blobs())
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(3):
            assert torch.equal(step(blobs(seed=seed)), kmeans(blobs(seed=seed) * 2, 4).centers + 1)


def test_an_eager_function_is_called_with_all_arguments_and_keeps_its_name():
    @eager
    def first_and_second(a, b=2):
        return a, b

    assert first_and_second(1) == (1, 2)
    assert first_and_second(1, b=3) == (1, 3)
    assert first_and_second.__name__ == "first_and_second"


def test_an_error_of_a_fit_inside_compiled_code_is_that_of_the_fit(unchecked):
    with pytest.raises(ValueError, match="n_clusters must be at most the number of points with weight, 300, got 301"):
        torch.compile(lambda x: kmeans(x, 301).centers, backend="eager")(blobs())


class Model(nn.Module):
    """Squared distances of points of each width, and of those of the last one through a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTHS[-1], WIDTHS[-1])

    def forward(self, points, centers):
        inside = assign(torch.tanh(self.layer(points[-1])), centers[-1]).sqdist
        return [*(assign(*pair).sqdist for pair in zip(points, centers, strict=True)), inside]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# The code that torch 2.13 generates for the automatic gradient of an indexed difference has wrong results, or writes
# past the end of its arrays, at 7 and 48 coordinates with several threads.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # which torch itself uses
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
def test_compiled_gradients_are_those_of_eager_code_and_of_float64(unchecked, two_threads):
    generator = seeded()
    points = [torch.randn(32, width, generator=generator, requires_grad=True) for width in WIDTHS]
    centers = [torch.randn(4, width, generator=generator, requires_grad=True) for width in WIDTHS]
    weights = torch.rand(32, generator=generator)
    model = Model()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False)

    def gradients(function):
        outputs = function(points, centers)
        inputs = [*points, *centers, *model.parameters()]
        return outputs, torch.autograd.grad(outputs, inputs, [weights] * len(outputs))

    (found, found_gradients), (expected, expected_gradients) = gradients(compiled), gradients(model)
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(found[-1], expected[-1])
    torch.testing.assert_close(found_gradients, expected_gradients, rtol=1e-4, atol=1e-5)
    for i in range(len(WIDTHS) - 1):  # the last one has the gradient of the layer, too
        x, c, labels = points[i].double(), centers[i].double(), assign(points[i], centers[i]).labels
        by_hand = 2 * weights[:, None].double() * (x - c[labels])
        torch.testing.assert_close(found_gradients[i].double(), by_hand, rtol=1e-5, atol=1e-6)
        sums = torch.zeros_like(c).index_add(0, labels, -by_hand)
        torch.testing.assert_close(found_gradients[len(WIDTHS) + i].double(), sums, rtol=1e-5, atol=1e-6)


def test_no_function_loads_the_compiler_of_torch():
    code = """
import sys, torch
from gpukmeans import KMeans, QuantizeColors, assign, kmeans, quantize
x = torch.rand(50, 3, requires_grad=True)
kmeans(x, 4)
assign(x, torch.rand(4, 3), metric="cosine").sqdist.sum().backward()
KMeans(4).partial_fit(x).fit(x).transform(x).sum().backward()
QuantizeColors(2)(torch.rand(3, 4, 4))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
