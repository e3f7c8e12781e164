"""Links out of the documentation's folder: to source files in the repository, and to figures of results.

Pages link to files as they lie in the repository (`../teachenv/env.py`), so that the links work on GitHub too. On the
site, such a link goes to the file in the repository's web pages, and a figure is copied into the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

FIGURES = (".png", ".svg")
_LINK = re.compile(r"\]\((\.\./[^)\s#]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"<(a|pre|h[1-6])\b.*?</\1>|<code>((?:teachenv|meta|agents)\.[\w.]+)</code>", re.DOTALL)


def outside(
    markdown: str, page: str, root: Path, repository: str, copied: dict[str, Path], warn: Callable[..., None]
) -> str:
    """Rewrites the links of a page that leave the documentation's folder.

    Args:
        markdown: the page.
        page: its path in the documentation's folder.
        root: the repository's folder.
        repository: the address of the repository's web pages.
        copied: figures that the site must have, by their path in it; is added to.
        warn: is called with a message if there is no such file.

    Returns:
        The page with its new links.
    """
    depth = page.count("/")

    def rewrite(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
        if target.startswith("docs/"):
            return match[0]
        if not (root / target).exists():
            warn("%s links to %s, which is not in the repository: fix the link", page, target)
            return match[0]
        if target.endswith(FIGURES):
            copied[f"images/{target}"] = root / target
            return f"]({'../' * depth}images/{target})"
        view = "tree" if (root / target).is_dir() else "blob"
        return f"]({repository.rstrip('/')}/{view}/main/{target}{match[2] or ''})"

    return _LINK.sub(rewrite, markdown)


def names(html: str, addresses: Mapping[str, str]) -> str:
    """Makes links of the public names that stand as code in a page, but not in links, blocks of code or headings.

    Args:
        html: the page.
        addresses: of each name, such as `"meta.RMD"`, relative to the page.
    """

    def rewrite(match: re.Match[str]) -> str:
        address = addresses.get(match[2] or "")
        return match[0] if address is None else f'<a href="{address}">{match[0]}</a>'

    return _CODE.sub(rewrite, html)
