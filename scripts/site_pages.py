"""Hooks of the documentation site: pages that lie outside docs/. README.md is the index."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

# Files of the checkout by their place in the site.
_PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, with links relative to docs/, and the license."""
    for place, source in _PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?:docs/)", "](", text).replace("](README.md)", "](index.md)")
        files.append(File.generated(config, place, content=text))
    for source in ("LICENSE", "gpukmeans/textbook.py"):  # linked by pages
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    return files
