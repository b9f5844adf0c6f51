"""The documentation builds as a site, with a section for each public name, links that lead somewhere, and a search."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpukmeans

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # no network
    answer = subprocess.run(command, cwd=ROOT, env=os.environ | proxies, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.html")} | {
        "index": (folder / "search" / "search_index.json").read_text("utf-8")
    }


def test_each_public_name_has_one_section_with_its_description(site):
    sections = [name for page in site.values() for name in re.findall(r'<h2 id="gpukmeans\.(\w+)"', page)]
    assert sorted(sections) == sorted(gpukmeans.__all__)


def test_examples_of_docstrings_are_code(site):
    page = site["api/clustering.html"]
    assert "Examples:" in page
    assert "&gt;&gt;&gt; " not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_the_index_is_the_readme_and_its_links_stay_inside_the_site(site):
    assert 'href="guide.html"' in site["index.html"]
    assert 'href="docs/' not in site["index.html"]


def test_pages_load_nothing_from_a_network(site):
    for name, page in site.items():
        if name.endswith(".html"):
            loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="?([^" >]+)', page)
            links = re.findall(r"<link[^>]+(?:stylesheet|preconnect)[^>]*>", page)
            loaded += re.findall(r'href="?([^" >]+)', " ".join(links))
            assert loaded or not name.startswith("api/"), name
            assert not [url for url in loaded if url.startswith(("http", "//"))], name


def test_the_search_finds_functions_and_pages(site):
    texts = {entry["location"]: entry["text"] for entry in json.loads(site["index"])["docs"]}
    assert "api/images.html#gpukmeans.quantize" in texts
    assert any(location.startswith("guarantees.html") for location in texts)
