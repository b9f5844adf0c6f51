"""The page in a browser: dragging, keys, the selection of a variant, screen sizes and color schemes."""

import io
import time

import numpy as np
import pytest
import torch
from helpers.browser import start_chromium
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.report.page import render_page
from gpukmeans_cli.report.variants import build_report_data

NUMBERS = [3, 8, 40]
NAME = """<img src=x onerror="document.title='harm'">&"'</script><script>document.title='harm'</script>.png"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(draw_sample(300, 200)).save(path)
    return build_report_data(path, NUMBERS, Settings(n_colors=3, device=torch.device("cpu"), dither=None, lossy=None))


@pytest.fixture(scope="module")
def address(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page("photo.png", data), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium():
    with start_chromium() as driver:
        yield driver


@pytest.fixture
def browser(chromium, address):
    """A window of 1000 x 800 with the page, in the light scheme; afterwards the log of the browser must be empty."""
    emulate(chromium)
    chromium.get(address)
    yield chromium
    assert chromium.get_log("browser") == []


def emulate(browser, *, width=1000, height=800, scheme="light"):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def eventually(condition):
    """Whether a condition becomes true within five seconds."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def screenshot(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)


def page_screenshot(browser):
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(int)


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def compare(browser):
    browser.execute_script("scrollTo(0, 0)")  # so that the tabs, which stick to the upper edge, do not cover it
    return find(browser, "#compare")


def visible(browser, selector):
    return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def in_colors(data, n_colors):
    variant = next(variant for variant in data.variants if variant.n_colors == n_colors)
    return np.asarray(Image.open(io.BytesIO(variant.data)).convert("RGB")).astype(int)


def plainly(data, n_colors):
    variant = next(variant for variant in data.variants if variant.n_colors == n_colors)
    return np.asarray(Image.open(io.BytesIO(variant.plain.data)).convert("RGB")).astype(int)


def boundary(browser, left, right):
    """The boundary between the two images in percent of the width, or None if other pixels are shown.

    Only the upper third of the rows is compared, without the corners, the badges and the handle.
    """
    shown = screenshot(compare(browser))
    rows = slice(15, 70)
    assert shown.shape == left.shape
    is_left = (shown[rows] == left[rows]).all(axis=(0, 2))
    is_right = (shown[rows] == right[rows]).all(axis=(0, 2))
    n = int(np.argmin(is_left[15:])) + 15 if not is_left[15:].all() else len(is_left)
    line = 5  # width of the handle with its shadow
    if not is_right[n + line : -15].all():
        return None
    return 100 * (n + 2) / len(is_left)


def test_the_original_is_left_of_the_handle_and_the_variant_right_of_it(browser, data):
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(50, abs=2)


def test_a_mouse_moves_the_boundary_from_anywhere_in_the_image(browser, data):
    picture = compare(browser)
    chain = ActionChains(browser).move_to_element_with_offset(picture, 90, 60)
    chain.click_and_hold().move_by_offset(-20, 0).release().perform()
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(100 * 220 / 300, abs=2)
    ActionChains(browser).move_by_offset(-100, 0).perform()  # no longer held
    assert find(browser, "#split").get_property("value") == "73"


def test_a_finger_moves_the_boundary_and_still_scrolls_the_page(browser, data):
    assert compare(browser).value_of_css_property("touch-action") == "pan-y"
    touch = ActionBuilder(browser, mouse=PointerInput("touch", "finger"))
    action = touch.pointer_action
    action.move_to(compare(browser), 0, 0).pointer_down().move_to(compare(browser), -60, 0).pointer_up()
    touch.perform()
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(30, abs=2)


def test_the_boundary_is_focused_and_moved_by_keys(browser, data):
    find(browser, "#k-8").send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("id") == "split"
    assert focused.accessible_name == "How much of the left image is shown, in percent from the left"
    focused.send_keys(Keys.ARROW_RIGHT * 10)
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(60, abs=2)
    assert focused.get_attribute("aria-valuetext") == "60 % of the left image"
    focused.send_keys(Keys.HOME)
    shown = screenshot(compare(browser))[15:70, 15:-15]
    assert (shown == in_colors(data, 8)[15:70, 15:-15]).all()


def test_keys_move_the_boundary_from_the_position_of_a_click(browser):
    ActionChains(browser).move_to_element_with_offset(compare(browser), 30, 0).click().perform()
    ActionChains(browser).send_keys(Keys.ARROW_LEFT * 5).perform()
    assert find(browser, "#split").get_property("value") == "55"


def clouds(browser):
    return [screenshot(find(browser, f"#cloud-{name}")) for name in ("before", "after")]


def state(browser):
    """All content of the page that depends on the selected variant."""
    return {
        "picture": screenshot(compare(browser))[:, 170:].tobytes(),
        "swatches": [code.text for code in visible(browser, ".swatches code")],
        "facts": [e.text for e in visible(browser, ".facts")],
        "curve": [find(e, ".main").get_attribute("d") for e in visible(browser, ".inertia")],
        "sizes": screenshot(find(browser, "#sizes")).tobytes(),
        "cloud": clouds(browser)[1].tobytes(),
        "command": [e.text for e in visible(browser, ".command")],
        "row": screenshot(find(browser, "tbody")).tobytes(),
    }


def test_nearest_colors_are_compared_with_the_variant(browser, data):
    find(browser, "label[for=left-plain]").click()
    assert boundary(browser, plainly(data, 8), in_colors(data, 8)) == pytest.approx(50, abs=2)
    find(browser, "label[for=k-3]").click()
    assert boundary(browser, plainly(data, 3), in_colors(data, 3)) == pytest.approx(50, abs=2)
    assert [badge.text for badge in visible(browser, ".badge")] == ["Nearest", "3 colors"]
    find(browser, "label[for=left-original]").click()
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 3)) == pytest.approx(50, abs=2)


# The zoom


def zoomed_at(browser, zoom):
    """The corner of the shown part, in pixels of the image."""
    x, y = (
        browser.execute_script(
            f"return getComputedStyle(document.querySelector('.stage')).getPropertyValue('--{axis}')"
        )
        for axis in "xy"
    )
    return -float(x.removesuffix("px")) / zoom, -float(y.removesuffix("px")) / zoom


def enlarged(image, zoom, left, top, shape):
    rows = (np.arange(shape[0]) + round(top * zoom)) // zoom
    columns = (np.arange(shape[1]) + round(left * zoom)) // zoom
    return image[rows][:, columns]


def is_zoomed(browser, data, zoom):
    """Whether both images are shown, each pixel as a square, around the corner that the page has."""
    shown = screenshot(compare(browser))
    corner = zoomed_at(browser, zoom)
    middle = shown.shape[1] // 2
    inside = np.s_[15:70, 15 : middle - 25], np.s_[15:70, middle + 25 : -15]
    images = draw_sample(300, 200), in_colors(data, 8)
    return all(
        (shown[part] == enlarged(image, zoom, *corner, shown.shape)[part]).all()
        for part, image in zip(inside, images, strict=True)
    )


@pytest.mark.parametrize("zoom", [2, 4, 8])
def test_the_zoom_shows_each_pixel_as_a_square_around_the_middle(browser, data, zoom):
    find(browser, f"label[for=zoom-{zoom}]").click()
    size = compare(browser).size
    assert size["width"] == min(300 * zoom, 640)
    left, top = zoomed_at(browser, zoom)
    assert left + size["width"] / 2 / zoom == pytest.approx(150, abs=1)
    assert top + size["height"] / 2 / zoom == pytest.approx(100, abs=1)
    assert is_zoomed(browser, data, zoom)
    find(browser, "label[for=zoom-0]").click()
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(50, abs=2)


def test_dragging_a_zoomed_image_moves_it_and_dragging_the_handle_moves_the_boundary(browser, data):
    find(browser, "label[for=zoom-4]").click()
    left, top = zoomed_at(browser, 4)
    chain = ActionChains(browser).move_to_element_with_offset(compare(browser), 100, 60)
    chain.click_and_hold().move_by_offset(-40, 20).release().perform()
    assert zoomed_at(browser, 4) == (left + 10, top - 5)
    assert find(browser, "#split").get_property("value") == "50"
    assert is_zoomed(browser, data, 4)
    chain = ActionChains(browser).move_to_element_with_offset(compare(browser), 0, 0)
    chain.click_and_hold().move_by_offset(64, 0).release().perform()
    assert zoomed_at(browser, 4) == (left + 10, top - 5)
    assert find(browser, "#split").get_property("value") == "60"


def test_shift_and_arrow_keys_move_a_zoomed_image_to_its_edges_and_no_further(browser):
    find(browser, "label[for=zoom-4]").click()
    left, top = zoomed_at(browser, 4)
    range_input = find(browser, "#split")
    range_input.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT)
    assert zoomed_at(browser, 4) == (left + 20, top)
    for _ in range(12):
        range_input.send_keys(Keys.SHIFT + Keys.ARROW_LEFT + Keys.ARROW_UP)
    assert zoomed_at(browser, 4) == (0, 0)
    assert range_input.get_property("value") == "50"
    range_input.send_keys(Keys.ARROW_RIGHT)
    assert range_input.get_property("value") == "51"


# Copies


def test_a_click_on_a_color_or_a_command_copies_it(browser, data):
    browser.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    for button in visible(browser, ".swatches button")[:2] + visible(browser, ".terminal button"):
        button.click()
        code = button.find_element(By.XPATH, ".//code | ./preceding-sibling::code").text
        assert eventually(lambda code=code: find(browser, "#toast").text == f"Copied {code}")
        assert browser.execute_script("return copied") == code


def test_what_cannot_be_copied_is_selected(browser):
    browser.execute_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    button = visible(browser, ".swatches button")[1]
    button.click()
    assert eventually(lambda: "Ctrl+C" in find(browser, "#toast").text)
    assert browser.execute_script("return getSelection().toString().trim()") == button.text
    visible(browser, ".terminal button")[0].click()
    selected = "return getSelection().toString().trim()"
    assert eventually(lambda: browser.execute_script(selected) == "gpukmeans compress photo.png -k 8")


def test_a_click_on_a_number_selects_its_variant_everywhere(browser, data):
    before = state(browser)
    points = clouds(browser)[0]
    find(browser, "label[for=k-3]").click()
    after = state(browser)
    assert [key for key in before if before[key] == after[key]] == []
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 3)) == pytest.approx(50, abs=2)
    assert len(after["swatches"]) == 3
    assert len(after["curve"]) == len(after["command"]) == len(after["facts"]) == 1
    assert after["command"] == ["gpukmeans compress photo.png -k 3"]
    assert (clouds(browser)[0] == points).all()  # in their own colors with every number


def test_arrow_keys_select_the_number_of_colors(browser, data):
    find(browser, "#k-8").send_keys(Keys.ARROW_RIGHT)
    assert boundary(browser, draw_sample(300, 200), in_colors(data, 40)) == pytest.approx(50, abs=2)
    assert visible(browser, ".command")[0].text.endswith("-k 40")
    find(browser, "#k-40").send_keys(Keys.ARROW_RIGHT)  # wraps to the first
    assert len(visible(browser, ".swatches code")) == 3


@pytest.mark.parametrize("selector", ["tbody label[for=k-40]", "#sizes g[data-mark='40']"])
def test_the_table_and_the_chart_select_a_variant(browser, selector):
    find(browser, selector).click()
    assert find(browser, "#k-40").is_selected()
    assert visible(browser, ".command")[0].text.endswith("-k 40")


def test_a_tap_selects_a_number_of_colors(browser):
    touch = ActionBuilder(browser, mouse=PointerInput("touch", "finger"))
    touch.pointer_action.move_to(find(browser, "label[for=k-3]")).pointer_down().pointer_up()
    touch.perform()
    assert eventually(lambda: find(browser, "#k-3").is_selected())


def test_a_long_palette_unfolds(browser):
    find(browser, "label[for=k-40]").click()
    assert len(visible(browser, ".swatches code")) == 32
    visible(browser, "summary")[0].send_keys(Keys.ENTER)
    assert eventually(lambda: len(visible(browser, ".swatches code")) == 40)


def test_a_palette_is_folded_after_12_colors_on_a_phone(browser, address):
    emulate(browser, width=375, height=640)
    browser.get(address)
    find(browser, "label[for=k-40]").click()
    assert len(visible(browser, ".swatches code")) == 12
    visible(browser, "summary")[0].send_keys(Keys.ENTER)
    assert eventually(lambda: len(visible(browser, ".swatches code")) == 40)


INK = {"light": (0x1D, 0x1B, 0x19), "dark": (0xEE, 0xEB, 0xE6)}


def n_pixels_near(shown, color):
    return int((abs(shown - color).max(axis=2) < 25).sum())


def test_the_cloud_has_points_and_centers_drawn_over_the_points(browser):
    points, centers = clouds(browser)
    background = points[points.shape[0] // 2, 5]
    assert 0.005 < (points != background).any(axis=2).mean() < 0.6
    assert (points != centers).any()
    assert n_pixels_near(centers, INK["light"]) > 8 * 20 + n_pixels_near(points, INK["light"])  # rings


def test_the_page_fits_the_width_of_a_phone(browser, address):
    emulate(browser, width=320, height=640)
    browser.get(address)
    assert browser.execute_script("return innerWidth") == 320
    for n in NUMBERS:
        find(browser, f"label[for=k-{n}]").click()
        assert browser.execute_script("return document.documentElement.scrollWidth") == 320
        widest = "return Math.max(...[...document.querySelectorAll('main *, header *')].filter((e) => \
            !e.closest('.vh')).map((e) => e.getBoundingClientRect().right))"
        assert browser.execute_script(widest) <= 320
    size = compare(browser).size
    assert (size["width"], size["height"]) == (288, 192)
    text = "return getComputedStyle(document.querySelector('td')).fontSize"
    assert float(browser.execute_script(text).removesuffix("px")) >= 12


def test_an_image_has_its_full_size_in_a_wide_window(browser):
    size = compare(browser).size
    assert (size["width"], size["height"]) == (300, 200)


def test_dark_mode_changes_the_page_and_the_canvases(browser):
    light = page_screenshot(browser)
    assert light[:, :30].mean() > 200
    emulate(browser, scheme="dark")
    assert eventually(lambda: page_screenshot(browser)[:, :30].mean() < 60)
    points, centers = clouds(browser)
    assert points[3, 200].mean() < 60
    assert n_pixels_near(centers, INK["dark"]) > 8 * 20 + n_pixels_near(points, INK["dark"])  # rings are light now


def test_the_page_has_no_animations(browser):
    assert browser.execute_script("return document.getAnimations().length") == 0
    moving = "return [...document.querySelectorAll('*')].filter((e) => \
        getComputedStyle(e).transitionDuration !== '0s' || getComputedStyle(e).animationName !== 'none').length"
    assert browser.execute_script(moving) == 0


def test_all_images_have_accessible_names(browser):
    images = visible(browser, "img, [role=img]")
    names = [element.accessible_name for element in images]
    assert "photo.png, the original" in names
    assert "photo.png in 8 colors" in names
    assert all(names)
    assert len(names) == 6  # two images, two charts, two clouds


def test_images_table_and_selection_work_without_scripts(chromium, address, data):
    emulate(chromium)
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(address)
        assert boundary(chromium, draw_sample(300, 200), in_colors(data, 8)) == pytest.approx(50, abs=2)
        find(chromium, "label[for=k-3]").click()
        assert boundary(chromium, draw_sample(300, 200), in_colors(data, 3)) == pytest.approx(50, abs=2)
        assert len(chromium.find_elements(By.CSS_SELECTOR, "tbody tr")) == 3
        assert "drawn by a script" in find(chromium, "noscript").get_property("innerText")
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_name_of_a_file_is_escaped(browser, data, tmp_path):
    (tmp_path / "page.html").write_text(render_page(NAME, data), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title == f"{NAME} in few colors"
    assert find(browser, "h1").get_property("textContent") == NAME
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "img")) == 1 + 2 * len(NUMBERS)
    assert find(browser, ".before img").get_attribute("alt") == f"{NAME}, the original"
    find(browser, "label[for=k-3]").click()  # its own script runs
    assert (clouds(browser)[0] != clouds(browser)[1]).any()


def test_the_page_blocks_other_scripts_and_network_requests(chromium, address):
    emulate(chromium)
    chromium.get(address)
    add = "const e = document.createElement(arguments[0]); Object.assign(e, arguments[1]); document.body.append(e)"
    chromium.execute_script(add, "script", {"textContent": "document.title = 'harm'"})
    chromium.execute_script(add, "img", {"src": "http://localhost:9/a.png"})
    blocked = []

    def both_blocked():
        blocked.extend(chromium.get_log("browser"))
        return len(blocked) >= 2

    assert eventually(both_blocked)
    assert all("Content Security Policy" in entry["message"] for entry in blocked)
    assert chromium.title == "photo.png in few colors"
