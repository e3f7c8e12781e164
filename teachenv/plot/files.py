"""Figures as files: PNG for pages, SVG and PDF for papers; animations as GIF."""

from __future__ import annotations

import io
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachenv import checks
from teachenv.experiment.writing import write_atomically

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


def save(figure: Figure, path: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure as PNG, SVG and PDF, each file whole or not at all.

    Letters of SVG and PDF files stay letters, which can be searched and edited; PDF embeds its fonts as TrueType, as
    conferences ask for. Files hold no date.

    Args:
        figure: Matplotlib's figure.
        path: the files without their endings, `"figures/weights"` for `figures/weights.png` and so on. With the ending
            of one of the formats only that one is written.
        formats: which of "png", "svg" and "pdf" are written.

    Returns:
        The files.

    Raises:
        ValueError: an unknown format, or none.
        OutputNotWritable: a file could not be written.
    """
    kinds = [checks.choice(f"formats[{i}]", kind, FORMATS) for i, kind in enumerate(formats)]
    if not kinds:
        raise ValueError(f"formats is empty, expected some of {', '.join(FORMATS)}")
    path = Path(path)
    if path.suffix[1:] in FORMATS:
        path, kinds = path.with_suffix(""), [path.suffix[1:]]
    written = []
    for kind in kinds:
        file = path.with_name(f"{path.name}.{kind}")
        write_atomically(file, _content(figure, kind))
        written.append(file)
    return written


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    return _content(figure, "png")


def gif(animation: FuncAnimation, fps: int = 3) -> bytes:
    """The animation as a GIF file's content, with so many frames a second."""
    from matplotlib.animation import PillowWriter

    with tempfile.TemporaryDirectory() as folder:  # Matplotlib writes animations to files alone
        path = Path(folder, "animation.gif")
        animation.save(path, PillowWriter(fps=fps))
        return path.read_bytes()


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: letters stay letters, and every id begins with the figure's name.

    Args:
        figure: Matplotlib's figure.
        name: the figure's name on its page: letters, digits, and dashes.
    """
    drawn = _content(figure, "svg", name).decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    # As wide as the page has room for, but not so wide that its letters are larger than the page's.
    return re.sub(r' width="([\d.]+)pt" height="[\d.]+pt"', r' style="max-width: \1pt"', drawn, count=1)


def _content(figure: Figure, kind: str, name: str = "figure") -> bytes:
    import matplotlib

    metadata = {
        "png": {},
        "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
        "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    }[kind]
    options: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}
    file = io.BytesIO()
    with matplotlib.rc_context(options), warnings.catch_warnings():
        if kind == "svg":  # the reader's fonts matter
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out, which takes long
    return file.getvalue()
