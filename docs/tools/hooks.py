"""What MkDocs calls while it builds the site: the API reference, and links out of the documentation's folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))

import api  # noqa: E402
import links  # noqa: E402
import tutorial_pages  # noqa: E402

log = logging.getLogger("mkdocs.hooks.teachenv")
REFERENCE = api.read(ROOT)


def on_config(config: Any) -> None:
    """Puts the API reference into the navigation."""
    for section in config.nav:
        if "API reference" in section:
            section["API reference"] = REFERENCE.nav()


def on_files(files: Files, config: Any) -> None:
    """Adds the pages of the API reference; warns of tutorials whose pages are older than their scripts."""
    for name in tutorial_pages.outdated():
        log.warning('the page of tutorial %s is not of its script as it is now: make tutorials ARGS="%s"', name, name)
    for path, content in REFERENCE.pages().items():
        files.append(File.generated(config, path, content=content))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links to files of the repository to its web pages, and copies figures."""
    copied: dict[str, Path] = {}
    markdown = links.outside(markdown, page.file.src_uri, ROOT, config.repo_url, copied, log.warning)
    for path, file in copied.items():
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(file)))
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Makes links of public names."""
    addresses = {}
    for name, (path, anchor) in REFERENCE.links().items():
        file = files.get_file_from_path(path)
        if file is not None and (path != page.file.src_uri or anchor):
            addresses[name] = get_relative_url(file.url, page.url) + anchor
    return links.names(html, addresses)
