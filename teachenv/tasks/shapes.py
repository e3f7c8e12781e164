"""Procedural scenes of coloured shapes, with their masks and boxes: segmentation and detection on any machine.

A scene is a tinted, shaded ground with one to four shapes (disc, square, triangle), each turned, sized, placed and
coloured by chance; later ones cover earlier ones. Colour says nothing of the class, the outline does. Pixel noise and
stripes on ground and shapes keep single pixels from deciding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLASSES = ("disc", "square", "triangle")
"""Names of the shapes; in masks and boxes they are 1, 2, 3, and 0 is the ground."""

MOST = 4
"""Shapes in a scene."""

_LEAST_SEEN = 12  # pixels of a shape; what is covered further is no object
_NOISE = 0.1


@dataclass(frozen=True)
class Scenes:
    """A number of scenes of `size`×`size` pixels.

    Attributes:
        images: (n, 3, size, size) float32 within [-0.5, 0.5].
        masks: (n, size, size) int64, the class of each pixel.
        boxes: (n, 4, 4) float32, left, top, right, bottom in pixels of what is seen of each shape; zeros where there is
            none.
        labels: (n, 4) int64, the class of each box; 0 where there is none.
    """

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def draw_scenes(count: int, size: int, rng: np.random.Generator) -> Scenes:
    """Draws scenes; a function of the generator's state.

    Raises:
        ValueError: no scenes, or too small ones.
    """
    if count < 1 or size < 24:
        raise ValueError(f"found {count} scenes of {size} pixels a side, expected at least 1 of at least 24")
    scenes = [_scene(size, rng) for _ in range(count)]
    return Scenes(*(np.stack(part) for part in zip(*scenes, strict=True)))


def _scene(size: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.generic], ...]:
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    image = _striped(rows, columns, rng)
    owner = np.zeros((size, size), dtype=np.int64)
    kinds = rng.integers(1, len(CLASSES) + 1, rng.integers(1, MOST + 1))
    for number, kind in enumerate(kinds, 1):
        radius = rng.uniform(0.1, 0.22) * size
        y, x = rng.uniform(radius, size - radius, 2)
        inside = _inside(int(kind), (rows - y) / radius, (columns - x) / radius, rng.uniform(0, 2 * np.pi))
        image[:, inside] = _striped(rows, columns, rng)[:, inside]
        owner[inside] = number
    boxes, labels = np.zeros((MOST, 4), np.float32), np.zeros(MOST, np.int64)
    mask = np.zeros_like(owner)
    for number, kind in enumerate(kinds, 1):
        visible = owner == number
        if visible.sum() < _LEAST_SEEN:
            continue
        mask[visible] = kind
        down, across = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        boxes[number - 1] = across[0], down[0], across[-1] + 1, down[-1] + 1
        labels[number - 1] = kind
    image += rng.normal(0, _NOISE, image.shape)
    return image.clip(0, 1).astype(np.float32) - 0.5, mask, boxes, labels


def _inside(kind: int, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], angle: float) -> npt.NDArray[np.bool_]:
    """Where a shape of radius 1 around the origin is."""
    if CLASSES[kind - 1] == "disc":
        return np.asarray(x * x + y * y < 1)
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    if CLASSES[kind - 1] == "square":
        return np.asarray(np.maximum(abs(x), abs(y)) < 0.8)
    return np.asarray(np.maximum(-y, 0.5 * y + np.sqrt(0.75) * abs(x)) < 0.5)


def _striped(
    rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A colour by chance, shaded in stripes: (3, size, size)."""
    angle, wavelength, phase = rng.uniform(0, np.pi), rng.uniform(4, 12), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) / wavelength + phase)
    return np.asarray(rng.uniform(0.15, 0.85, 3)[:, None, None] + 0.12 * wave)
