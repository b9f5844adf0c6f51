"""Chromium without a window."""

import contextlib
import os
import shutil

import pytest
from selenium import webdriver

_BROWSER, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextlib.contextmanager
def start_chromium():
    """The driver of a running Chromium, whose screen is sRGB."""
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
