"""The sample image: balloons over a lake at dusk, drawn by formulas, for a demo without a photo.

The smooth sky shows banding. The balloons and flowers are small saturated details, which a bad palette loses.

The unit of length is the height of the image. y grows downward from the upper edge, and x to the right from the center.
For a balloon or a flower, the unit is its radius, and the origin is its center. Colors are float32 (3, H, W), 0 to 255.
The bytes are the same on every machine, since the formulas use only operations that IEEE 754 rounds correctly (+ - * /
and square root), no sums over pixels, and the raw bits of PCG64.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Color = tuple[int, int, int]

_SHORE = 0.56
_SUN_X, _SUN_Y = 0.13, 0.445
_RANDOM = (np.random.PCG64(20).random_raw(1 << 16) >> np.uint64(40)).astype(np.float32) / 2.0**24

# fmt: off
_DUSK: tuple[Color, ...] = (
    (20, 26, 74), (44, 44, 104), (92, 68, 136), (170, 92, 142), (232, 128, 118), (252, 176, 116), (255, 220, 156),
)
# fmt: on
_CLOUD: tuple[Color, ...] = ((120, 84, 140), (240, 134, 132), (255, 196, 140))
_GRASS: tuple[Color, ...] = ((176, 150, 88), (98, 116, 62), (38, 76, 50), (16, 36, 40))
_POPPY, _BUTTERCUP, _CORNFLOWER = (232, 36, 28), (250, 204, 30), (62, 84, 226)
_RANGES: tuple[tuple[float, float, float, Color, Color], ...] = (
    (0.455, 0.13, 2.3, (190, 122, 140), (244, 176, 140)),
    (0.490, 0.11, 3.1, (122, 88, 128), (206, 136, 134)),
    (0.525, 0.08, 4.3, (66, 62, 104), (132, 98, 122)),
)
_BALLOONS: tuple[tuple[float, float, float, Color, Color], ...] = (
    (-0.36, 0.21, 0.066, (216, 30, 44), (255, 206, 74)),
    (0.40, 0.13, 0.040, (24, 92, 214), (244, 240, 232)),
    (-0.10, 0.32, 0.024, (250, 190, 20), (236, 98, 22)),
    (0.30, 0.35, 0.017, (12, 158, 132), (240, 236, 120)),
    (-0.56, 0.37, 0.014, (214, 26, 120), (250, 220, 230)),
)


class _Layer(NamedTuple):
    """A rectangle of the image and the function that repaints it.

    The rectangle reaches from `top` to `bottom` and from -`side` to `side` around the origin (x, y), in units of `unit`
    image heights. The arguments of `paint` are the pixels of the rectangle, their y (H, 1) and x (1, W) in these units
    from the origin, and the number of pixels in a unit. `paint` returns the new pixels.
    """

    paint: Callable[[Array, Array, Array, float], Array]
    top: float
    bottom: float
    side: float = 1000
    x: float = 0
    y: float = 0
    unit: float = 1


def draw_sample(width: int = 1280, height: int = 864) -> NDArray[np.uint8]:
    """The sample image (height, width, 3), the same bytes on every machine. All sizes show the same scene."""
    picture = np.zeros((3, height, width), dtype=np.float32)
    ys = (np.arange(height, dtype=np.float32) + 0.5) / height
    xs = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / height
    for layer in _scene():
        y, x = (ys - layer.y) / layer.unit, (xs - layer.x) / layer.unit
        rows = slice(*np.searchsorted(y, (layer.top, layer.bottom)))
        columns = slice(*np.searchsorted(x, (-layer.side, layer.side)))
        region = picture[:, rows, columns]
        region[...] = layer.paint(region, y[rows, None], x[None, columns], layer.unit * height)
    return np.ascontiguousarray(np.rint(picture.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))


def _scene() -> list[_Layer]:
    """The layers from far to near."""
    balloons = [
        _Layer(partial(_balloon, colors=(one, other), light=0.3 if x < _SUN_X else -0.3), -1.2, 2.1, 1.2, x, y, radius)
        for x, y, radius, one, other in _BALLOONS
    ]
    ground = [_Layer(_lake, 0, 0.9), _Layer(_meadow, 0.7, 1)]
    return [_Layer(_sky, 0, 1), _Layer(_hills, 0.36, _SHORE), *balloons, *ground, *_flowers(110)]


def _flowers(count: int) -> list[_Layer]:
    """The layers of poppies with a few buttercups and cornflowers, from far to near."""
    random = (np.random.PCG64(7).random_raw(count * 4) >> np.uint64(40)).reshape(count, 4) / 2.0**24
    right, down, size, draws = random[np.argsort(random[:, 1])].T
    right, near = 1.5 * right - 0.75, 0.05 + 0.95 * down * down
    rows = np.stack([right, _ground(near, right) - 0.03, (0.0035 + 0.013 * near) * (0.7 + 0.6 * size), draws], axis=1)
    flowers: list[_Layer] = []
    for x, y, radius, kind in rows.tolist():
        color, scale = (_POPPY, 1) if kind < 0.7 else (_BUTTERCUP, 0.6) if kind < 0.88 else (_CORNFLOWER, 0.6)
        flowers.append(_Layer(partial(_flower, color=color), -1.5, 1.5, 1.5, x, y, radius * scale))
    return flowers


def _sky(_: Array, y: Array, x: Array, scale: float) -> Array:
    """The sky at dusk, with a low sun and a few streaks of cloud lit from below."""
    east, down = x - _SUN_X, y - _SUN_Y
    sqdist = east * east + down * down
    picture = _gradient(y / _SHORE - 0.08 * x * x + 0.02, _DUSK)
    picture = _over(picture, (128, 52, 132), 0.3 / (1 + 6 * (x + 0.8) * (x + 0.8) + 9 * (y - 0.3) * (y - 0.3)))
    streaks = _smoothstep(4 * _fractal_noise(y * 16 + x * 1.5, x * 2.2, 4) - 2) * _smoothstep(
        1.1 - 7 * np.abs(y - 0.27)
    )
    picture = _over(picture, _gradient(y / 0.5, _CLOUD), streaks * 0.6)
    picture = _over(picture, (255, 214, 150), 0.75 / (1 + sqdist * 40))
    return _over(picture, (255, 248, 222), _coverage(0.036 - np.sqrt(sqdist), scale))


def _hills(picture: Array, y: Array, x: Array, scale: float) -> Array:
    """Three mountain ranges in haze, then a wooded shore."""
    for row, (base, relief, frequency, crest, foot) in enumerate(_RANGES):
        depth = y - base - relief * (0.5 - _fractal_noise(40 * row + 7, x * frequency, 6))
        picture = _over(picture, _gradient(depth * 10 + 0.1 * x, (crest, foot)), _coverage(depth, scale))
    return _over(picture, (30, 34, 58), _coverage(y - _treeline(x), scale))


def _treeline(x: Array) -> Array:
    """The skyline of conifers: y at each x."""
    line = 0.555 - 0.016 * _fractal_noise(3, x * 3, 4)
    top = line
    for row, frequency in enumerate((42, 55, 71)):
        middle = np.floor(x * frequency)
        tall = _noise(row + 90, middle) * _smoothstep(3 * _noise(row, x * 4) - 0.9)
        top = np.minimum(top, line - 0.04 * tall * (1 - 2 * np.abs(x * frequency - middle - 0.5)))
    return top


def _balloon(picture: Array, y: Array, x: Array, scale: float, colors: tuple[Color, Color], light: float) -> Array:
    """A balloon in stripes of two colors. From its center to its right edge, the brightness grows by `light`."""
    half = np.where(y < 0.6, np.sqrt((1 - y * y).clip(0)), 0.8 - 0.75 * (y - 0.6))
    side = (x / half.clip(0.001)).clip(-1, 1)
    stripe = np.floor((side + 0.57 * side * side * side * side * side) * 2.2 + 0.5).astype(np.int32) & 1
    fabric = np.asarray(colors, dtype=np.float32).T[:, stripe] * (0.82 + light * side - 0.12 * y)
    basket = np.minimum(0.16 - np.abs(x), 0.16 - np.abs(y - 1.72))
    ropes = np.minimum(0.02 - np.abs(np.abs(x) - 0.14), 0.2 - np.abs(y - 1.45))
    picture = _over(picture, (58, 36, 34), _coverage(np.maximum(basket, ropes), scale))
    return _over(picture, fabric, _coverage(np.minimum(half - np.abs(x), np.minimum(1.35 - y, y + 1)), scale))


def _lake(picture: Array, y: Array, x: Array, scale: float) -> Array:
    """The reflection of the scene above the shore, distorted by waves that grow toward the viewer."""
    shore = int(np.searchsorted(y[:, 0], _SHORE))
    depth = y[shore:] - _SHORE
    waves = _fractal_noise(9 / (depth + 0.06), x * 1.2 / (depth + 0.06), 4) - 0.5
    rows = ((_SHORE - depth * 1.25 + waves * (0.008 + 0.3 * depth)) * scale).astype(np.int32).clip(0, max(shore - 1, 0))
    water = picture[:, rows, np.arange(x.size)] * _channels_first((220, 200, 212)) / 255
    water = _over(water, (40, 44, 104), 1.6 * depth + 0.5 * (waves - 0.1))
    path, east = 0.02 + 0.25 * depth, x - _SUN_X
    glitter = _smoothstep(waves * 6 - 0.2) * _smoothstep(depth * 20 - 0.2) / (1 + east * east / (path * path))
    return np.concatenate([picture[:, :shore], _over(water, (255, 226, 160), glitter * 0.8)], axis=1)


def _meadow(picture: Array, y: Array, x: Array, scale: float) -> Array:
    """Rows of grass blades from far to near."""
    depth = np.full(picture.shape[1:], -1, dtype=np.float32)
    for row in range(14):
        near = row / 13
        edge = _ground(near, x) - 0.02 * _fractal_noise(row * 5, x * 2, 3)
        lean = x + (y - edge) * (_noise(row + 50, x * 9) - 0.5)
        inside = y - edge + (0.012 + 0.05 * near) * _noise(row * 3, lean * (215 - 140 * near))
        depth = _lerp(depth, inside / (0.05 + 0.08 * near), _coverage(inside, scale))
    shade = depth * 0.7 + 1.9 * (y - 0.74) + 0.5 * (_fractal_noise(y * 12, x * 5, 3) - 0.5)
    color = _gradient(shade, _GRASS) * (0.6 + 0.6 * _fractal_noise(y * 36, x * 90, 2))
    warmth = 0.7 / (1 + 5 * (x - _SUN_X) * (x - _SUN_X)) + _noise(y * 20 + 9, x * 24) - 0.6
    return _over(picture, color * (1 + _channels_first((28, 10, -12)) / 100 * warmth), (depth + 1).clip(0, 1))


def _ground(near: Array | float, x: Array) -> Array:
    """The ground line of the meadow, from far (near = 0) to near (1): y at each x."""
    return 0.77 + 0.24 * near + (0.05 - 0.04 * near) * x


def _flower(picture: Array, y: Array, x: Array, scale: float, color: Color) -> Array:
    """A flower, seen from above at an angle: bright at the far rim, dark in the middle."""
    petals = _channels_first(color) * (1 - 0.5 * _smoothstep(0.8 + y - x * x))
    picture = _over(picture, petals, _coverage(1 - np.sqrt(x * x + y * y * 1.7), scale))
    heart = 0.3 - np.sqrt(x * x + (y - 0.2) * (y - 0.2) * 3)
    return _over(picture, (40, 20, 30), _coverage(heart, scale) * 0.8)


def _lerp(a: Array, b: Array, t: Array) -> Array:
    """Linear interpolation from a (t = 0) to b (t = 1)."""
    return a + (b - a) * t


def _over(picture: Array, color: Array | Color, coverage: Array) -> Array:
    """The image with a color composited over it by the coverage (H, W)."""
    return _lerp(picture, _channels_first(color) if isinstance(color, tuple) else color, coverage)


def _channels_first(color: Color) -> Array:
    """The color as (3, 1, 1), which broadcasts to an image."""
    return np.asarray(color, dtype=np.float32)[:, None, None]


def _coverage(inside: Array, scale: float) -> Array:
    """The coverage of a shape, from the signed distance of each pixel to its edge. The edge is one pixel soft."""
    return (inside * scale + 0.5).clip(0, 1)


def _smoothstep(t: Array) -> Array:
    """The cubic step: 0 for t <= 0, 1 for t >= 1, and smooth between."""
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)


def _gradient(t: Array, colors: tuple[Color, ...]) -> Array:
    """A gradient along the colors for t from 0 to 1. It is a quadratic B-spline, so that no kinks show as lines."""
    knots = np.asarray((colors[0], *colors, colors[-1]), dtype=np.float32).T
    t = t.clip(0, 1) * (len(colors) - 1) + 0.5
    i = t.astype(np.int32).clip(0, len(colors) - 1)
    f = t - i.astype(np.float32)
    return knots[:, i] * (0.5 - f + f * f / 2) + knots[:, i + 1] * (0.5 + f - f * f) + knots[:, i + 2] * (f * f / 2)


def _noise(y: Array | float, x: Array) -> Array:
    """Smooth value noise from 0 to 1 with one random value at each integer (y, x), with period 256."""
    y = np.asarray(y, dtype=np.float32)
    row, column = np.floor(y), np.floor(x)
    i, j = (row.astype(np.int32) & 255) << 8, column.astype(np.int32) & 255
    below, beside = (i + 256) & 0xFF00, (j + 1) & 255
    right = _smoothstep(x - column)
    upper = _lerp(_RANDOM.take(i + j), _RANDOM.take(i + beside), right)
    lower = _lerp(_RANDOM.take(below + j), _RANDOM.take(below + beside), right)
    return _lerp(upper, lower, _smoothstep(y - row))


def _fractal_noise(y: Array | float, x: Array, octaves: int) -> Array:
    """Noise from 0 to 1 of several octaves. Each octave has half the weight of the next coarser octave."""
    total = _noise(y, x)
    for octave in range(1, octaves):
        total = total + _noise(y * 2**octave + 31 * octave, x * 2**octave + 17 * octave) / 2**octave
    return total / (2 - 0.5 ** (octaves - 1))
