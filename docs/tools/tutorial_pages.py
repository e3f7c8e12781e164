"""The pages of the tutorials: which script each was made from, and whether it is still that script.

A tutorial is a script in docs/tutorials, of cells that begin with `# %%` (code) or `# %% [markdown]` (comments).
`run_tutorials.py` runs it and writes the page with what was printed and drawn. The page holds the script's digest.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"


class Cell(NamedTuple):
    """A part of a script: text in Markdown, or code."""

    is_text: bool
    content: str


def cells(script: str) -> list[Cell]:
    """Cuts a script into its cells.

    Raises:
        ValueError: the script does not begin with a cell.
    """
    before, *parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"a tutorial begins with a line '# %%' or '# %% [markdown]', found {before.splitlines()[0]!r}")
    found = []
    for kind, content in zip(parts[::2], parts[1::2], strict=True):
        is_text = kind.strip() == "[markdown]"
        text = re.sub(r"^# ?", "", content, flags=re.MULTILINE) if is_text else content
        found.append(Cell(is_text, text.strip("\n")))
    return found


def signature(script: Path) -> str:
    """The last line of a script's page: a comment that says what it was made from."""
    digest = hashlib.sha256(script.read_bytes()).hexdigest()[:16]
    return f"<!-- made by `make tutorials` from {script.name}, {digest} -->"


def outdated() -> list[str]:
    """The tutorials whose page is missing, or was made from another version of the script."""
    scripts = sorted(FOLDER.glob("*.py"))
    pages = {script: script.with_suffix(".md") for script in scripts}
    return [
        script.stem
        for script, page in pages.items()
        if not page.exists() or not page.read_text(encoding="utf-8").endswith(f"{signature(script)}\n")
    ]
