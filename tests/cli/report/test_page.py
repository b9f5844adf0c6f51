import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gpukmeans_cli.report.page import render_page
from gpukmeans_cli.report.variants import Cloud, Encoding, ReportData, Variant

NASTY = """</script><script>alert(1)</script><img src=x onerror=alert(1)>&"'{{ 7 * 7 }}.png"""
VOID = {"meta", "link", "img", "input", "br"}


def variant(n_colors=2, **changes):
    fields = {
        "n_colors": n_colors,
        "mode": "Optimized",
        "data": b"png of %d" % n_colors,
        "kept": False,
        "colors": np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8),
        "counts": np.array([3, 1]),
        "psnr": 31.234,
        "quality": 81.26,
        "plain": None,
        "inertia": (500.0, 250.0),
        "centers": np.array([[0, 500], [1000, 500]]),
        "center_colors": np.array([[0, 0, 255], [255, 0, 0]], dtype=np.uint8),
        "labels": np.array([0, 1, 1], dtype=np.uint8),
    }
    return Variant(**{**fields, **changes})


def plain(n_bytes=900, **changes):
    return Encoding(**{"data": bytes(n_bytes), "kept": False, "psnr": 33.3, "quality": 79.96, **changes})


def report_data(*variants, **changes):
    cloud = Cloud(
        points=np.array([[0, 0], [500, 1], [1000, 1000]]),
        colors=np.array([[0, 0, 254], [200, 0, 0], [255, 0, 0]], dtype=np.uint8),
        draw_counts=np.array([1, 1, 2]),
        explained_variance_ratio=0.987,
    )
    fields = {
        "width": 30,
        "height": 20,
        "n_colors": 3,
        "n_bytes": 1000,
        "dropped_frames": 0,
        "original": b"jpeg",
        "original_suffix": ".jpeg",
        "cloud": cloud,
        "variants": variants or (variant(2), variant(7), variant(9)),
    }
    return ReportData(**{**fields, **changes})


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text by tag; an error for tags that are not nested."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_contains_the_files_of_the_images():
    page = Page(render_page("photo.jpg", report_data()))
    sources = [image["src"] for image in page.attributes("img")]
    kinds, data = zip(
        *(re.fullmatch("data:image/(.*);base64,(.*)", source).groups() for source in sources), strict=True
    )
    assert kinds == ("jpeg", "png", "png", "png")
    assert [base64.b64decode(one) for one in data] == [b"jpeg", b"png of 2", b"png of 7", b"png of 9"]
    assert [image["alt"] for image in page.attributes("img")] == ["photo.jpg, the original"] + 3 * [
        "photo.jpg in 2 colors"
    ]


def test_the_middle_number_is_selected_at_first():
    for numbers, selected in (([2], 2), ([2, 7], 7), ([2, 7, 9], 7), ([1, 2, 7, 9], 7)):
        page = Page(render_page("photo.jpg", report_data(*map(variant, numbers))))
        radios = [attributes for attributes in page.attributes("input") if attributes.get("name") == "k"]
        assert [int(radio["value"]) for radio in radios] == numbers
        assert [int(radio["value"]) for radio in radios if "checked" in radio] == [selected]


def test_each_input_has_a_label():
    page = Page(render_page("photo.jpg", report_data(variant(plain=plain()))))
    labels = {label["for"] for label in page.attributes("label")}
    assert {attributes["id"] for attributes in page.attributes("input")} == labels


def test_the_page_makes_no_network_requests():
    html = render_page("photo.jpg", report_data())
    page = Page(html)
    assert "//" not in re.sub('data:[^"]*|// [A-Z].*', "", html).replace("<!--", "")
    assert all(value.startswith("data:") for _, a in page.tags for key, value in a.items() if key in ("src", "href"))
    policy = next(a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_name_of_the_file_is_escaped_everywhere():
    plain, nasty = (Page(render_page(name, report_data())) for name in ("photo.png", NASTY))
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert "".join(nasty.text["h1"]) == NASTY
    assert "".join(nasty.text["title"]) == f"{NASTY} in few colors"
    assert nasty.attributes("img")[0]["alt"] == f"{NASTY}, the original"
    assert not any("onerror" in attributes for _, attributes in nasty.tags)


def test_a_name_with_invalid_characters_is_shown_escaped():
    html = render_page("a\udcff\n\x1b[31m\u202e.png", report_data())
    assert "".join(Page(html).text["h1"]) == r"a\udcff\n\x1b[31m\u202e.png"
    html.encode("utf-8")


def test_swatches_have_hex_digits_and_percentages():
    page = Page(render_page("photo.jpg", report_data(variant())))
    assert [text for text in page.text["code"] if text[0] == "#"] == ["#ff0000", "#0000ff"]
    assert [text for text in page.text["span"] if "%" in text] == ["75.0 %", "25.0 %"]
    assert [a["style"] for a in page.attributes("span") if "style" in a] == [
        "flex-grow:3;background:#ff0000",
        "flex-grow:1;background:#0000ff",
    ]
    assert [a["style"] for a in page.attributes("li")] == ["--color:#ff0000", "--color:#0000ff"]


def rows(page_html):
    body = re.search("<tbody>(.*)</tbody>", page_html, re.DOTALL)[1]
    return [re.sub("<[^>]*>", "|", row).strip("|").split("||") for row in body.strip().splitlines()]


def test_the_table_has_a_row_for_each_variant():
    html = render_page("photo.jpg", report_data(variant(2), variant(7, psnr=None, inertia=())))
    assert [[cell for part in row for cell in part.split("|") if cell] for row in rows(html)] == [
        ["2", "8 bytes", "0.8 %", "81.3", "31.23", "2"],
        ["2 of 7", "8 bytes", "0.8 %", "81.3", "lossless", "0"],
    ]
    assert [data["value"] for data in Page(html).attributes("data")] == ["8", "8"]


@pytest.mark.parametrize("changes", [{"n_bytes": 0}, {"dropped_frames": 4}])
def test_an_incomparable_file_size_is_not_compared(changes):
    html = render_page("photo.gif", report_data(variant(), **changes))
    assert "Of the input" not in html
    assert "\N{EN DASH}" in html
    assert ("the first of 5 frames" in html) == ("dropped_frames" in changes)


def test_nearest_colors_are_beside_the_variant_everywhere():
    html = render_page("photo.jpg", report_data(variant(3, plain=plain(1500))))
    page = Page(html)
    assert [base64.b64decode(image["src"].split(",")[1]) for image in page.attributes("img")][1:] == [
        bytes(1500),
        b"png of 3",
    ]
    over = "▲&nbsp;", "150.0 %", ", larger than the input"
    assert page.attributes("img")[1]["alt"] == "photo.jpg in the nearest of 3 colors"
    assert [[cell for part in row for cell in part.split("|") if cell] for row in rows(html)] == [
        ["2 of 3", "8 bytes", "1.5 kB", "0.8 %", *over, "81.3", "80.0", "31.23", "33.30", "2"]
    ]
    assert len(re.findall('class="(?:curve )?plain"', html)) == 2  # a line and its point
    assert [a["value"] for a in page.attributes("input") if a.get("name") == "left"] == ["original", "plain"]
    assert "Nearest" not in render_page("photo.jpg", report_data(variant()))


def warnings(html):
    return [re.sub("<[^>]*>", "", text) for text in re.findall('<p class="warning".*</p>', html)]


def test_a_file_that_is_no_smaller_than_the_input_has_a_warning():
    def page_html(n_bytes, **changes):
        return render_page("photo.png", report_data(variant(data=bytes(n_bytes), **changes)))

    assert warnings(page_html(999)) == []
    assert warnings(page_html(1000, kept=True)) == [
        "▲ This file is no smaller than the input of 1.0 kB, which compress then keeps as it is."
    ]
    assert warnings(page_html(1001, kept=True)) == [
        "▲ This file is larger than the input of 1.0 kB, which compress then keeps as it is."
    ]
    assert warnings(page_html(1001)) == ["▲ This file is larger than the input of 1.0 kB."]


def test_the_size_of_the_input_is_marked_among_those_of_the_variants():
    def page_html(*sizes, **changes):
        variants = [variant(n, data=bytes(size)) for n, size in enumerate(sizes, 2)]
        return render_page("photo.png", report_data(*variants, **changes))

    assert page_html(500, 2000).count('class="limit"') == 1
    assert page_html(500, 600).count('class="limit"') == 0
    assert page_html(500, 2000, dropped_frames=1).count('class="limit"') == 0


def test_a_variant_without_clustering_has_no_inertia_chart():
    html = render_page("photo.png", report_data(variant(inertia=())))
    assert "nothing to cluster" in html
    assert "chart inertia" not in html
    assert len(re.findall('class="chart inertia"', render_page("photo.png", report_data()))) == 3


def test_the_cloud_is_json_for_the_script():
    html = render_page(NASTY, report_data(variant(2)))
    data = json.loads(re.search('<script type="application/json" id="cloud">(.*?)</script>', html)[1])
    assert data == {
        "max": 1000,
        "points": [0, 0, 500, 1, 1000, 1000],
        "counts": [1, 1, 2],
        "colors": ["#0000fe", "#c80000", "#ff0000"],
        "variants": {"2": {"labels": "000101", "centers": [0, 500, 1000, 500], "colors": ["#0000ff", "#ff0000"]}},
    }


def test_the_command_is_quoted_for_a_shell():
    html = render_page("my photo.jpg", report_data(variant(2)), ["--dither", "bayer"])
    (command,) = re.findall('<code class="command"[^>]*>(.*)</code>', html)
    assert command == "gpukmeans compress &#39;my photo.jpg&#39; -k 2 --dither bayer"


def test_the_command_writes_the_file_that_is_shown_where_compress_would_keep_the_input():
    (command,) = re.findall(
        '<code class="command"[^>]*>(.*)</code>', render_page("a.png", report_data(variant(kept=True)))
    )
    assert command == "gpukmeans compress a.png -k 2 --allow-larger"


def test_a_long_palette_is_folded_sooner_on_a_phone():
    def folding(n_colors):
        colors = np.arange(3 * n_colors, dtype=np.uint8).reshape(-1, 3)
        html = render_page("a.png", report_data(variant(n_colors, colors=colors, counts=np.ones(n_colors, dtype=int))))
        return re.findall('<details class="(.*?)"', html)

    assert (folding(12), folding(13), folding(32), folding(33)) == ([], ["few"], ["few"], ["many"])


def test_a_name_with_a_dash_is_not_an_option_of_the_command():
    for name, argument in (("-k.png", "./-k.png"), ("-", "-")):
        page_html = render_page(name, report_data(variant(2)))
        assert re.findall("gpukmeans compress ([^<]*) -k 2<", page_html) == [argument]


def test_translucent_colors_have_alpha():
    colors = np.array([[255, 0, 0, 128], [0, 0, 0, 0]], dtype=np.uint8)
    html = render_page("photo.png", report_data(variant(colors=colors)))
    assert 'style="--color:#ff000080"' in html
    assert 'style="--color:#00000000"' in html


def test_many_variants_hide_the_labels_of_points():
    few, many = (
        render_page("photo.png", report_data(*(variant(n, data=bytes(n)) for n in range(1, last)))) for last in (13, 14)
    )
    assert few.count('class="name rare"') == 0
    assert many.count('class="name rare"') == 13


def test_equal_data_gives_equal_pages():
    assert render_page("photo.jpg", report_data()) == render_page("photo.jpg", report_data())
