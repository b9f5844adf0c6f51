import copy
import pickle

import pytest
import torch
from torch import nn

from gpukmeans import QuantizeColors, quantize, unique_colors
from gpukmeans.images.palette import fit_palette


class Tagged(torch.Tensor):
    """A tensor subclass, like the `tv_tensors` of torchvision."""


def channels_first(image):
    return image.movedim(-1, -3)


@pytest.fixture
def photos(china, flower):
    """Two small photos (2, 3, H, W)."""
    return channels_first(torch.stack([china, flower])[:, ::8, ::8])


def test_an_image_has_the_colors_of_quantize(photos):
    result = QuantizeColors(7)(photos[0])
    assert (result.shape, result.dtype) == (photos[0].shape, torch.uint8)
    assert torch.equal(result, channels_first(quantize(photos[0].movedim(0, -1), 7).pixels()))


def test_targets_are_passed_through(photos):
    step = QuantizeColors(7)
    boxes, expected = torch.rand(2, 4), step(photos[0])
    image, target = step(photos[0], boxes)
    assert torch.equal(image, expected)
    assert target is boxes
    image, target, info = step(photos[0], {"boxes": boxes}, 3)
    assert torch.equal(image, expected)
    assert (target["boxes"] is boxes, info) == (True, 3)
    assert step(photos[0], None)[1] is None


@pytest.mark.parametrize("lead", [(1,), (2,), (2, 1), (1, 2)])
def test_each_image_of_a_batch_has_the_result_it_has_alone(photos, lead):
    batch = photos[: torch.Size(lead).numel()].reshape(*lead, *photos.shape[1:])
    result = QuantizeColors(7, seed=4)(batch)
    assert result.shape == batch.shape
    for image, quantized in zip(photos, result.reshape(-1, *photos.shape[1:]), strict=False):
        assert torch.equal(QuantizeColors(7, seed=4)(image), quantized)
        assert len(unique_colors(quantized.movedim(0, -1)).colors) == 7


def test_a_function_can_dither(photos):
    step = QuantizeColors(3, dither=lambda image, palette, nearest, strength: 2 - nearest)
    assert not torch.equal(step(photos), QuantizeColors(3)(photos))


def test_an_empty_batch_is_returned_empty():
    assert QuantizeColors(3)(torch.zeros(0, 3, 4, 5, dtype=torch.uint8)).shape == (0, 3, 4, 5)
    assert QuantizeColors(3)(torch.zeros(0, 3, 4, 5)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floats_are_rounded_to_8_bits_and_back(photos, dtype):
    step = QuantizeColors(7)
    floats = (photos[0].float() / 255).to(dtype)
    result = step(floats)
    assert result.dtype == dtype
    eight_bits = (floats.float() * 255).round().to(torch.uint8)
    assert torch.equal(result, (step(eight_bits).float() / 255).to(dtype))
    if dtype == torch.float32:
        assert torch.equal(result * 255, step(photos[0]).float())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_number_of_channels_are_quantized(channels):
    image = torch.randint(1, 256, (channels, 20, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    result = QuantizeColors(5)(image)
    assert result.shape == image.shape
    assert len(unique_colors(result.movedim(0, -1)).colors) <= 5


def test_the_result_depends_on_the_seed_and_not_on_global_state(photos):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = QuantizeColors(9)(photos)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    step = QuantizeColors(9)
    assert torch.equal(step(photos), first)
    assert torch.equal(step(photos), first)
    assert not torch.equal(QuantizeColors(9, seed=1)(photos), first)


def test_all_options_are_passed_to_quantize(photos, monkeypatch):
    seen = {}

    def spy(image, n_colors, **options):
        seen.update(options, n_colors=n_colors)
        return quantize(image, n_colors)

    monkeypatch.setattr("gpukmeans.images.transforms.quantize", spy)
    fixed = torch.zeros(1, 3, dtype=torch.uint8)
    options = {
        "space": "oklab",
        "dither": "optimized",
        "strength": 0.5,
        "lossy": 7.5,
        "rounds": 2,
        "rate": "gif",
        "n_init": 3,
    }
    options["keep_vivid"] = True
    QuantizeColors(5, **options, fixed=fixed, refine=2, seed=8)(photos)
    assert seen.pop("generator").initial_seed() == 8
    assert torch.equal(seen.pop("fixed"), fixed)
    assert seen == options | {"n_colors": 5, "refine": 2}


def test_fixed_colors_are_kept_and_move_with_the_module(photos):
    fixed = torch.tensor([[255, 255, 255], [0, 0, 0]], dtype=torch.uint8)
    step = QuantizeColors(2, fixed=fixed)
    assert {tuple(color) for color in unique_colors(step(photos[0]).movedim(0, -1)).colors.tolist()} <= {
        (0, 0, 0),
        (255, 255, 255),
    }
    assert step.half().fixed.dtype == torch.uint8
    assert copy.deepcopy(step).to("meta").fixed.device.type == "meta"
    assert not step.state_dict()


def test_a_tensor_subclass_is_kept_and_a_parameter_becomes_a_tensor(photos):
    result = QuantizeColors(4)(photos.as_subclass(Tagged))
    assert type(result) is Tagged
    assert torch.equal(result.as_subclass(torch.Tensor), QuantizeColors(4)(photos))
    floats = QuantizeColors(4)(nn.Parameter(photos.float() / 255))
    assert type(floats) is torch.Tensor
    assert not floats.requires_grad


def test_the_module_works_in_a_pipeline_and_can_be_pickled(photos):
    pipeline = nn.Sequential(QuantizeColors(6), nn.Upsample(scale_factor=2))
    assert pipeline(photos.float() / 255).shape == (2, 3, photos.shape[2] * 2, photos.shape[3] * 2)
    again = pickle.loads(pickle.dumps(pipeline))
    assert torch.equal(again(photos.float() / 255), pipeline(photos.float() / 255))


def test_the_image_is_not_changed(photos):
    kept = photos.clone()
    QuantizeColors(3)(photos)[:] = 0
    assert torch.equal(photos, kept)
    few = torch.zeros(3, 2, 2, dtype=torch.uint8)
    QuantizeColors(3)(few)[:] = 9
    assert (few == 0).all()


def test_the_representation_has_the_options_that_are_not_defaults():
    assert repr(QuantizeColors(16)) == "QuantizeColors(16)"
    fixed = torch.zeros(2, 3, dtype=torch.uint8)
    step = QuantizeColors(16, dither="bayer", strength=0.5, seed=3, fixed=fixed)
    assert repr(step) == "QuantizeColors(16, dither='bayer', strength=0.5, seed=3, fixed=2 colors)"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[[0]]], TypeError, "image must be a tensor, got list"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), TypeError, r"uint8 or of floats from 0 to 1, got torch\.int64"),
        (torch.zeros(2, 2), ValueError, r"image must have shape \(\.\.\., C, H, W\).* got \(2, 2\)"),
        (torch.zeros(5, 2, 2), ValueError, r"C from 1 to 4.* got \(5, 2, 2\)"),
        (torch.zeros(3, 0, 2), ValueError, r"H and W at least 1, got \(3, 0, 2\)"),
        (torch.full((3, 2, 2), 1.01), ValueError, "floats from 0 to 1, got floats from 1.01 to 1.01"),
        (torch.full((3, 2, 2), -0.5), ValueError, "got floats from -0.5 to -0.5"),
        (torch.full((3, 2, 2), 1 + 2**-23), ValueError, r"got floats from 1\.0000001 to 1\.0000001"),
        (torch.full((3, 2, 2), float("nan")), ValueError, "got floats from nan to nan"),
    ],
)
def test_anything_but_an_image_is_refused(image, error, message, unchecked):
    with pytest.raises(error, match=message):
        QuantizeColors(2)(image)


def test_wrong_options_are_refused_when_an_image_is_passed(photos):
    with pytest.raises(ValueError, match="n_colors must be from 1 to 256, got 0"):
        QuantizeColors(0)(photos)


def test_equal_images_have_the_palette_of_one_image(photos):
    image = photos[0].movedim(0, -1)
    palette = fit_palette(unique_colors(image), 7).colors
    result = QuantizeColors(7)(photos[[0, 0]])
    assert torch.equal(unique_colors(result[1].movedim(0, -1)).colors, palette)
