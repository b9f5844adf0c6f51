"""Headless Chromium, and the pixels of an image file as Chromium shows them."""

import base64
import contextlib
import os
import shutil

import numpy as np
import pytest
from selenium import webdriver

_BROWSER, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

_DRAW = """
const [address, done] = arguments, image = new Image();
image.onerror = () => done(null);
image.onload = () => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  done([canvas.height, canvas.width, Array.from(data)]);
};
image.src = address;
"""


@contextlib.contextmanager
def start_chromium():
    """The driver of a running Chromium with an sRGB screen. Without Chromium the test is skipped, or fails on request.

    The environment variable REQUIRE_BROWSER makes it fail.
    """
    if _BROWSER is None or _DRIVER is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        refuse("needs chromium and chromedriver, which `make browser` installs")
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(argument)
    options.add_argument("--no-sandbox")  # root and some containers have no sandbox; the pages are our own
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shown_pixels(chromium, data, kind):
    """The pixels (H, W, 4) in sRGB that Chromium shows for file contents of the type image/`kind`, turned upright."""
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    height, width, values = chromium.execute_async_script(_DRAW, address)
    return np.array(values, dtype=np.uint8).reshape(height, width, 4)
