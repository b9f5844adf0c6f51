"""Animations whose still areas stay still: pixels that do not change in the source do not change in the output."""

import numpy as np
import pytest
from helpers.animations import read, save_frames
from helpers.photos import CHINA
from PIL import Image

from gpukmeans.images.dithering import DITHERINGS

N_FRAMES, HEIGHT, WIDTH = 4, 48, 64


@pytest.fixture(scope="module", params=["opaque", "transparent"])
def animation(request, tmp_path_factory):
    """A file in which a square moves over a photo. A third of the photo may be transparent."""
    with Image.open(CHINA) as image:
        photo = np.array(image.crop((200, 100, 200 + WIDTH, 100 + HEIGHT)).convert("RGBA"))
    if request.param == "transparent":
        photo[:, : WIDTH // 3] = 0
    frames = []
    for number in range(N_FRAMES):
        frame = photo.copy()
        frame[10:22, 6 + 12 * number : 18 + 12 * number] = (230, 40, 30, 255)
        frames.append(Image.fromarray(frame))
    return save_frames(tmp_path_factory.mktemp("moving") / "moving.webp", frames, duration=40)


def still_pixels(frames):
    """Mask (F - 1, H, W) of the pixels that are equal to those of the previous frame."""
    return (frames[1:] == frames[:-1]).all(axis=-1)


@pytest.mark.parametrize("dither", [name for name in DITHERINGS if name != "optimized"])
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_no_pixel_changes_that_does_not_change_in_the_source(command, animation, tmp_path, suffix, dither):
    output = tmp_path / f"moving{suffix}"
    assert command("compress", animation, "-o", output, "-k", 8, "--dither", dither, "-q")[0] == 0
    is_still = still_pixels(read(animation).frames)
    assert 0.8 < is_still.mean() < 1
    changed = is_still & ~still_pixels(read(output).frames)
    assert np.count_nonzero(changed) == 0


def test_pixels_that_change_have_no_larger_error_than_the_first_frame(command, animation, tmp_path):
    output = tmp_path / "moving.png"
    assert command("compress", animation, "-o", output, "-k", 8, "--dither", "floyd-steinberg", "-q")[0] == 0
    source, frames = (read(path).frames.astype(int) for path in (animation, output))
    errors = ((frames - source) ** 2).sum(axis=-1)
    assert errors[1:][~still_pixels(source)].mean() < 1.5 * errors[0].mean()
