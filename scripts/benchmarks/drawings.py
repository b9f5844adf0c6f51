"""Pictures of flat areas, text, lines, soft alpha and gradients, drawn by Pillow and NumPy. They are always equal."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Shapes are drawn this many times as large and then reduced, so that their edges are antialiased.
_SCALE = 4
_GREEN, _AMBER, _RED, _BLUE, _VIOLET = (34, 197, 94), (245, 158, 11), (239, 68, 68), (59, 130, 246), (124, 58, 237)
_INK, _GREY, _LINE, _PAPER = (31, 41, 55), (100, 110, 125), (226, 229, 234), (250, 251, 252)
_HOSTS = ["api-gateway", "auth", "billing", "cache-eu", "cache-us", "db-main", "db-replica", "edge", "mail", "search"]
_Color = tuple[int, ...]


class _Canvas:
    """A picture to draw on. Coordinates are pixels of the reduced picture."""

    def __init__(self, width: int, height: int, color: _Color) -> None:
        mode = "RGBA" if len(color) == 4 else "RGB"
        self.image = Image.new(mode, (width * _SCALE, height * _SCALE), color)
        self._draw = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, width: float, height: float, fill: _Color, *, radius: float = 0) -> None:
        corners = [x * _SCALE, y * _SCALE, (x + width) * _SCALE - 1, (y + height) * _SCALE - 1]
        self._draw.rounded_rectangle(corners, radius * _SCALE, fill)

    def disc(self, x: float, y: float, radius: float, fill: _Color) -> None:
        corners = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(corners, fill)

    def line(self, points: Sequence[tuple[float, float]], fill: _Color, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill, round(width * _SCALE), joint="curve")

    def text(self, x: float, y: float, text: str, fill: _Color, size: int = 12) -> None:
        self._draw.text((x * _SCALE, y * _SCALE), text, fill, ImageFont.load_default(size * _SCALE))

    def reduced(self) -> Image.Image:
        return self.image.reduce(_SCALE)


def drawings() -> dict[str, np.ndarray]:
    """Drawings by name, uint8 (H, W, 3), or (H, W, 4) with alpha."""
    return {"dashboard": _dashboard(), "chart": _chart(), "icons": _icons(), "pixel art": _pixel_art()}


def with_small_colors(photo: np.ndarray) -> dict[str, np.ndarray]:
    """A photo (H, W, 3) and a gradient, each with small vivid rectangles on it, by name."""
    height, width = 320, 480
    y, x = np.mgrid[:height, :width]
    gradient = np.stack([40 + 150 * x / width, 60 + 120 * y / height, 200 - 90 * x / width + 20 * np.sin(y / 40)], 2)
    pictures = {"badges on a photo": photo, "dots on a gradient": gradient.astype(np.uint8)}
    return {name: _with_badges(pixels) for name, pixels in pictures.items()}


def _with_badges(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for number, color in enumerate([_RED, _GREEN, _AMBER, _BLUE] * 2):
        x, y = (number * 0.11 + 0.08) * image.width, (0.2 + 0.3 * (number % 3)) * image.height
        draw.rounded_rectangle([x, y, x + 16, y + 8], 4, color)
    return np.array(image)


def over(pixels: np.ndarray, background: int) -> np.ndarray:
    """The picture over a grey background, uint8 (H, W, 3)."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.int64)
    return ((pixels[..., :3] * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def _gradient(image: Image.Image, box: tuple[int, int, int, int], first: _Color, last: _Color) -> None:
    """Fill a box with a horizontal gradient."""
    width, height = box[2] - box[0], box[3] - box[1]
    t = np.linspace(0, 1, width)[None, :, None]
    colors = np.array(first) * (1 - t) + np.array(last) * t
    image.paste(Image.fromarray(np.repeat(colors.round().astype(np.uint8), height, axis=0)), box[:2])


def _walk(random: np.random.Generator, n: int) -> np.ndarray:
    """A random walk of n values between 0 and 1."""
    walk = np.cumsum(random.normal(size=n))
    return (walk - walk.min()) / np.ptp(walk)


def _dashboard() -> np.ndarray:
    random, canvas = np.random.default_rng(0), _Canvas(768, 512, _PAPER)
    _gradient(canvas.image, (0, 0, 768 * _SCALE, 40 * _SCALE), _INK, (76, 29, 149))
    canvas.text(16, 11, "Service status", (240, 240, 245), 16)
    canvas.disc(744, 20, 12, _AMBER)
    canvas.box(0, 40, 130, 472, (241, 243, 246))
    canvas.box(8, 82, 114, 26, (219, 228, 245), radius=6)
    for number, name in enumerate(["Home", "Hosts", "Alerts", "Graphs", "Logs", "Users", "Keys", "Billing", "Help"]):
        canvas.text(18, 56 + 32 * number, name, _BLUE if number == 1 else _GREY)
    for number, (name, color) in enumerate([("Requests", _BLUE), ("Errors", _RED), ("Latency", _VIOLET)]):
        left = 146 + 206 * number
        canvas.box(left, 54, 192, 96, _LINE, radius=8)
        canvas.box(left + 1, 55, 190, 94, (255, 255, 255), radius=7)
        canvas.text(left + 12, 62, name, _GREY)
        canvas.text(left + 12, 78, f"{random.integers(100, 9000):,}", _INK, 20)
        canvas.line([(left + 12 + 4.2 * i, 142 - 34 * y) for i, y in enumerate(_walk(random, 41))], color, 1.5)
    for number, name in enumerate(_HOSTS):
        y, state = 162 + 34 * number, {4: "DOWN", 2: "WARN", 7: "WARN"}.get(number, "OK")
        canvas.box(146, y, 604, 29, _LINE, radius=5)
        canvas.box(147, y + 1, 602, 27, (255, 255, 255), radius=4)
        canvas.text(158, y + 7, name, _INK)
        canvas.box(300, y + 6, 48, 17, {"OK": _GREEN, "WARN": _AMBER, "DOWN": _RED}[state], radius=8)
        canvas.text(308, y + 8, state, (255, 255, 255), 10)
        canvas.text(380, y + 7, f"{random.integers(5, 900)} ms", _GREY)
        change = random.normal() * 3
        canvas.text(460, y + 7, f"{change:+.1f} %", (220, 38, 38) if change < 0 else (22, 163, 74))
        canvas.line([(560 + 4.4 * i, y + 23 - 17 * v) for i, v in enumerate(_walk(random, 41))], _BLUE)
    return np.array(canvas.reduced())


def _chart() -> np.ndarray:
    random, canvas = np.random.default_rng(1), _Canvas(720, 460, (255, 255, 255))
    for number in range(11):
        canvas.line([(56, 30 + 36 * number), (700, 30 + 36 * number)], _LINE)
        canvas.text(22, 23 + 36 * number, f"{100 - 10 * number}", _GREY, 11)
    for number in range(12):
        canvas.text(62 + 54 * number, 398, f"{2014 + number}", _GREY, 11)
    colors = [(37, 99, 235), (220, 38, 38), (5, 150, 105), (217, 119, 6), (124, 58, 237)]
    for number, color in enumerate(colors):
        points = [(58 + 8.1 * i, 370 - 58 * number - 110 * y) for i, y in enumerate(_walk(random, 80))]
        canvas.line(points, color, 2)
        canvas.disc(70 + 120 * number, 432, 5, color)
        canvas.text(82 + 120 * number, 425, f"series {'ABCDE'[number]}", (55, 65, 81), 12)
    return np.array(canvas.reduced())


def _icons() -> np.ndarray:
    sheet = Image.new("RGBA", (384, 384), (0, 0, 0, 0))
    for number in range(36):
        shadow, icon = (_Canvas(64, 64, (0, 0, 0, 0)) for _ in range(2))
        hue, saturation, value = number / 36, 0.75, 0.9
        color = tuple(round(255 * level) for level in colorsys.hsv_to_rgb(hue, saturation, value))
        for canvas, y, fill in ((shadow, 4, (0, 0, 0, 150)), (icon, 0, (*color, 255))):
            if number % 2:
                canvas.disc(32, 30 + y, 20, fill)
            else:
                canvas.box(12, 10 + y, 40, 40, fill, radius=6)
        icon.line([(20, 30), (29, 40), (45, 21)], (255, 255, 255, 255), 4.5)
        blurred = shadow.image.filter(ImageFilter.GaussianBlur(3 * _SCALE))
        tile = Image.alpha_composite(blurred, icon.image).reduce(_SCALE)
        sheet.alpha_composite(tile, (number % 6 * 64, number // 6 * 64))
    return np.array(sheet)


def _pixel_art() -> np.ndarray:
    """A landscape of 160 x 120 pixels, enlarged four times."""
    random = np.random.default_rng(2)
    height, width, sky = 120, 160, 76
    t = np.arange(sky)[:, None, None] / sky
    bands = np.array([60, 90, 170]) * (1 - t) + np.array([250, 180, 140]) * t
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:sky] = (bands // 6 * 6).astype(np.uint8)
    for x in range(width):
        hill = _hill(x)
        pixels[hill:, x], pixels[hill + 14 :, x] = (46, 110, 60), (92, 64, 40)
    for y, x in zip(random.integers(76, height, 700), random.integers(0, width, 700), strict=True):
        pixels[y, x] = pixels[y, x] * random.choice([0.7, 0.85, 1.2])
    for x, color in ((20, (230, 30, 40)), (55, (255, 215, 0)), (90, (30, 200, 220)), (130, (200, 40, 200))):
        y = _hill(x + 3) - 8
        pixels[y : y + 8, x : x + 6], pixels[y - 3 : y, x + 1 : x + 5] = color, (255, 224, 189)
        pixels[y + 3, x + 2] = 20
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def _hill(x: int) -> int:
    return round(68 + 6 * np.sin(x / 11))
