"""The figure of the most suspect samples as images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from teachenv import checks
from teachenv.experiment.figures import as_it_is
from teachenv.experiment.writing import write_atomically

_COLUMNS = 8


def draw(inputs: np.ndarray, titles: Sequence[str], path: Any, shape: Sequence[int] | None) -> None:
    """Draws samples as images under their titles, in lines of eight; see `LabelIssues.plot`."""
    images = _images(inputs, shape)
    columns = min(_COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.9 * lines), dpi=130, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        axis.set_title(as_it_is(title, 60), fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.removeprefix(".") or "png")
    write_atomically(path, buffer.getvalue())


def _images(inputs: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    """The samples as (n, height, width) or (n, height, width, 3) from 0 to 1."""
    each = inputs.shape[1:]
    if shape is not None:
        wanted = tuple(
            checks.integer(f"shape[{i}]", size, least=1)
            for i, size in enumerate(checks.listed("shape", shape, "sizes"))
        )
        if len(wanted) not in (2, 3) or int(np.prod(wanted)) != int(np.prod(each)):
            raise ValueError(f"shape={wanted} does not fit samples of shape {each}; expected their height and width")
        images = inputs.reshape(-1, *wanted)
    elif len(each) == 2:
        images = inputs
    elif len(each) == 3 and each[0] in (1, 3):
        images = np.moveaxis(inputs, 1, -1)
    else:
        raise ValueError(
            f"samples of shape {each} are no images, which are (channels, height, width); give their height and width, "
            "as in shape=(8, 8), or use to_csv"
        )
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    low, high = images.min(), images.max()
    scaled: np.ndarray = (images - low) / max(high - low, 1e-12)
    return scaled
