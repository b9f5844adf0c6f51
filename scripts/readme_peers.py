"""Writes docs/picture.png, which compares the files of gpukmeans and pngquant: python scripts/readme_peers.py"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image, ImageDraw, ImageFont

from benchmarks.drawings import drawings
from benchmarks.photos import sample_photos
from benchmarks.pngquant import COMPRESS
from benchmarks.processes import run

# Each row shows a part of a picture, with details, smooth areas or text: name, then left and top in pixels. All parts
# have the same SIZE and are magnified by SCALE.
ROWS = [("photo", (90, 150)), ("photo", (330, 130)), ("dashboard", (20, 60))]
SIZE, SCALE, CAPTION = (160, 100), 2, 24
KINDS = ("original", "gpukmeans", "pngquant")


def draw(folder: Path) -> Image.Image:
    """A sheet with the original, the file of gpukmeans and the file of pngquant in each row, with file sizes."""
    pictures = {
        "photo": Image.open(sample_photos() / "china.jpg").convert("RGB"),
        "dashboard": Image.fromarray(drawings()["dashboard"]),
    }
    width, height = (length * SCALE for length in SIZE)
    sheet = Image.new("RGB", (3 * width, len(ROWS) * (height + CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for name, picture in pictures.items():
        source, ours, theirs = (folder / f"{name}-{kind}.png" for kind in KINDS)
        picture.save(source)
        run([sys.executable, COMPRESS, str(source), "-o", str(ours), "-q"])
        run(["pngquant", "--output", str(theirs), "256", str(source)])
    for row, (name, (x, y)) in enumerate(ROWS):
        for column, kind in enumerate(KINDS):
            path, left, top = folder / f"{name}-{kind}.png", column * width, row * (height + CAPTION)
            part = Image.open(path).convert("RGB").crop((x, y, x + SIZE[0], y + SIZE[1]))
            sheet.paste(part.resize((width, height), Image.Resampling.NEAREST), (left, top))
            pen.text((left + 6, top + height + 3), f"{kind}, {path.stat().st_size / 1000:.1f} kB", "black", font)
    return sheet


if __name__ == "__main__":
    if shutil.which("pngquant") is None:
        sys.exit("pngquant is not installed; it is in the packages of most systems")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(__file__).resolve().parents[1] / "docs" / "picture.png"
        draw(Path(scratch)).save(target, optimize=True)
