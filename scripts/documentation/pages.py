"""Hooks of the documentation site: pages and files that lie outside docs/. README.md is the index."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

# Pages of the checkout by their place in the site.
_PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the files of the checkout that pages link."""
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
    """Links of the pages at the top, as they are in the site."""
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\]\(([^)]+)\)", lambda match: f"]({_in_site(match[1])})", markdown)


def _in_site(link: str) -> str:
    """A link from a page of the checkout: docs/ is the root of the site."""
    return re.sub(r"^README\.md", "index.md", link.removeprefix("../").removeprefix("docs/"))
