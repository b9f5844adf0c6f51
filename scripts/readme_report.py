"""Writes docs/report.html of the sample picture and docs/report.png, its screenshot: python scripts/readme_report.py"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from selenium import webdriver  # pyright: ignore[reportMissingImports]  # of the extra dev

from gpukmeans import quantize
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.formats.still import encode_still, write_png
from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.report.page import render_page
from gpukmeans_cli.report.variants import build_report_data

DOCS = Path(__file__).resolve().parents[1] / "docs"
NUMBERS = (4, 8, 16, 64, 256)
SELECTED = 16
WIDTH, SCALE = 1080, 1.25
MAX_PAGE, MAX_PICTURE = 1_000_000, 300_000


def render_report() -> bytes:
    """The report on the sample picture, drawn at 640 x 432 pixels, as HTML."""
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "sample.png"
        write_png(photo, Image.fromarray(draw_sample(640, 432)), overwrite=False)
        settings = Settings(n_colors=NUMBERS[-1], device=torch.device("cpu"), dither=None, lossy=None)
        data = build_report_data(photo, NUMBERS, settings)
        return render_page(photo.name, data).encode()


def screenshot(path: Path) -> bytes:
    """A screenshot of the page in Chromium, from the top to the end of the clouds of colors, as PNG of 256 colors."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-color-profile=srgb"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": WIDTH, "height": 1000, "deviceScaleFactor": SCALE, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(path.as_uri())
        driver.execute_script(f"document.getElementById('k-{SELECTED}').click()")
        end = driver.execute_script("return document.querySelector('.clouds').getBoundingClientRect().bottom")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": round(end) + 24})
        image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    indexed = quantize(pixels, 256)
    return encode_still(indexed.palette.numpy(), indexed.indices.numpy(), ".png")


def write(path: Path, data: bytes, max_bytes: int) -> None:
    """Write a file of the README. ValueError if it is larger than `max_bytes`."""
    if len(data) > max_bytes:
        raise ValueError(f"{path.name} must be at most {max_bytes:,} bytes, got {len(data):,}")
    path.write_bytes(data)


if __name__ == "__main__":
    write(DOCS / "report.html", render_report(), MAX_PAGE)
    write(DOCS / "report.png", screenshot(DOCS / "report.html"), MAX_PICTURE)
