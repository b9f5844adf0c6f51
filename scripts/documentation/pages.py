"""Hooks of mkdocs that add files outside docs/ to the site. README.md becomes the index."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

# Paths of pages in the site, and of their files in the checkout.
_PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and files of the checkout to which pages link."""
    for place, source in _PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    linked = {
        link for file in files.documentation_pages() for link in re.findall(r"\]\(([^)#:]+)", file.content_string)
    }
    for link in sorted(map(_in_site, linked)):
        if files.get_file_from_path(link) is None and (ROOT / link).is_file():
            files.append(File.generated(config, link, abs_src_path=str(ROOT / link)))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """The text of a page. In pages at the top of the site, links are changed to paths in the site."""
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\]\(([^)]+)\)", lambda match: f"]({_in_site(match[1])})", markdown)


def _in_site(link: str) -> str:
    """The path in the site for a link in a page of the checkout. docs/ is the root of the site."""
    return re.sub(r"^README\.md", "index.md", link.removeprefix("../").removeprefix("docs/"))
