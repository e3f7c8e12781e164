"""Procedural 32x32 RGB images made from a seed, for machines that have no photographs.

A class is a combination of a shape (disc, ring, square, diamond, cross), the wavelength of the stripes that fill it,
and a hue; wavelength and hue are blurred by chance. Everything else is chance and carries no information: where the
shape lies, how large it is, which way the stripes lean and where they start, the brightness and tint of the background,
a faint second shape, and pixel noise. So the classes can be learned, from features that a convolution finds, but not
from any single pixel, and not perfectly: after six passes over the default pool, a network of three small convolutions
has about 70 % of the test split right.

Left and right are treated alike, so the flips of `FlipAndCrop` keep every label right.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import torch

from teachenv.errors import unknown_name
from teachenv.tasks.augmentation import FlipAndCrop
from teachenv.tasks.base import Task
from teachenv.tasks.splits import Split

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

SIZE = 32
_SHAPES = 5
_WAVELENGTHS: dict[int, tuple[float, ...]] = {10: (3.0, 6.0), 100: (2.5, 3.6, 5.2, 7.6)}  # pixels
_HUES = {10: np.arange(10) / 10, 100: np.arange(100) // 20 / 5}  # of each class, in turns of the colour wheel
_HUE_NOISE = {10: 0.08, 100: 0.03}  # standard deviation: with 10 classes, neighbours' hues overlap
_PIXEL_NOISE = 0.1
_DECOY_STRENGTH = 0.5


def synthetic(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the 10-class synthetic task; see `make_synthetic`, which also has 100 classes.

    Args:
        data_root: accepted for uniformity and not used: nothing is read.
        dataset: None or `"synthetic"`.
        pool_size: number of labelled samples; None for 5,000.
        split_seed: seed of the images.

    Raises:
        ValueError: `dataset` is anything else or `pool_size` is below 1.
    """
    del data_root
    if dataset not in (None, "synthetic"):
        raise unknown_name("dataset for task 'synthetic'", dataset, ["synthetic"])
    return make_synthetic(num_classes=10, pool_size=pool_size, seed=split_seed)


def make_synthetic(num_classes: int = 10, pool_size: int | None = None, test_size: int = 1000, seed: int = 0) -> Task:
    """Draws a task of procedural images: inputs `(n, 3, 32, 32)` float32 within [-0.5, 0.5], balanced classes.

    Pool and test come from separate random streams: the test split of a seed is the same for every pool size.

    Args:
        num_classes: 10 or 100.
        pool_size: number of labelled samples; None for 5,000.
        test_size: number of test samples.
        seed: seed of the images; what the classes look like does not depend on it.

    Raises:
        ValueError: `num_classes` is not 10 or 100, or a size is below 1.
    """
    if num_classes not in _WAVELENGTHS:
        raise ValueError(f"num_classes is {num_classes}: the synthetic images come with 10 or 100 classes")
    pool_size = 5000 if pool_size is None else pool_size
    if pool_size < 1 or test_size < 1:
        raise ValueError(f"pool_size is {pool_size} and test_size {test_size}: expected at least one sample in each")
    pool_stream, test_stream = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    return Task(
        name="synthetic" if num_classes == 10 else f"synthetic-{num_classes}",
        dataset="synthetic",
        pool=_draw_split(pool_size, num_classes, pool_stream),
        test=_draw_split(test_size, num_classes, test_stream),
        num_outputs=num_classes,
        augment=FlipAndCrop(padding=4),
    )


def _draw_split(n: int, num_classes: int, rng: np.random.Generator) -> Split:
    labels = rng.permutation(np.arange(n) % num_classes)
    return torch.from_numpy(_draw_images(labels, num_classes, rng)), torch.from_numpy(labels)


def _draw_images(labels: Integers, num_classes: int, rng: np.random.Generator) -> Floats:
    """Paints one image per label: background, stripes inside the class's shape, a decoy shape, noise."""
    n = len(labels)
    wavelengths = _WAVELENGTHS[num_classes]
    shape, texture = labels % _SHAPES, labels // _SHAPES % len(wavelengths)
    wavelength = np.asarray(wavelengths)[texture] * rng.uniform(0.9, 1.1, n)
    hue = _HUES[num_classes][labels] + rng.normal(0.0, _HUE_NOISE[num_classes], n)

    figure = _shape_masks(shape, rng.uniform(9.0, 12.0, n), rng)
    decoy = _shape_masks(rng.integers(0, _SHAPES, n), rng.uniform(3.0, 4.5, n), rng)
    stripes = 0.65 + 0.35 * _stripes(wavelength, rng)
    ink = _tints(hue, rng.uniform(0.6, 0.9, n)) * rng.uniform(0.7, 1.0, (n, 1)).astype(np.float32)
    paper = _tints(rng.random(n), rng.uniform(0.0, 0.5, n)) * rng.uniform(0.2, 0.5, (n, 1)).astype(np.float32)
    other = _tints(rng.random(n), rng.uniform(0.5, 0.9, n))

    images = np.broadcast_to(paper[:, :, None, None], (n, 3, SIZE, SIZE)).copy()
    images += _DECOY_STRENGTH * decoy[:, None] * (other[:, :, None, None] - images)
    images += figure[:, None] * (ink[:, :, None, None] * stripes[:, None] - images)
    images += _PIXEL_NOISE * rng.standard_normal(images.shape, dtype=np.float32)
    return np.asarray(np.clip(images, 0.0, 1.0) - 0.5, dtype=np.float32)


def _shape_masks(shape: Integers, radius: npt.NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Soft masks `(n, 32, 32)` in [0, 1] of shapes 0..4 at random places that keep them mostly inside the image."""
    n = len(shape)
    centre = rng.uniform(-1.0, 1.0, (2, n)) * (SIZE / 2 - 0.8 * radius) + SIZE / 2
    axis = np.arange(SIZE) + 0.5
    from_centre = np.abs((axis - centre[:, :, None]) / radius[:, None]).astype(np.float32)
    y, x = from_centre[0][:, :, None], from_centre[1][:, None, :]
    # Signed distances in units of the radius, negative inside; sizes are chosen so that the areas are about equal.
    round_distance = np.sqrt(x * x + y * y)
    distances = (
        round_distance - 0.9,  # disc
        np.abs(round_distance - 0.85) - 0.25,  # ring
        np.maximum(x, y) - 0.8,  # square
        x + y - 1.12,  # diamond
        np.maximum(np.minimum(x, y) - 0.3, np.maximum(x, y) - 1.0),  # cross
    )
    distance = np.select([(shape == i)[:, None, None] for i in range(_SHAPES)], distances)
    return np.asarray(np.clip(0.5 - distance * radius[:, None, None].astype(np.float32), 0.0, 1.0), dtype=np.float32)


def _stripes(wavelength: npt.NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Plane waves `(n, 32, 32)` in [-1, 1] of random direction and phase."""
    n = len(wavelength)
    angle, phase = rng.uniform(0.0, np.pi, n), rng.uniform(0.0, 2 * np.pi, n)
    frequency = 2 * np.pi / wavelength
    axis = np.arange(SIZE)
    along_y = ((frequency * np.sin(angle))[:, None] * axis).astype(np.float32)
    along_x = ((frequency * np.cos(angle))[:, None] * axis + phase[:, None]).astype(np.float32)
    return np.asarray(np.sin(along_y[:, :, None] + along_x[:, None, :]), dtype=np.float32)


def _tints(hue: npt.NDArray[np.float64], saturation: npt.NDArray[np.float64]) -> Floats:
    """Colours `(n, 3)` in [0, 1]: a cosine colour wheel, hue in turns, saturation from 0 (white) to 1."""
    channels = 0.5 + 0.5 * np.cos(2 * np.pi * (hue[:, None] - np.arange(3) / 3))
    return np.asarray(1.0 - saturation[:, None] * (1.0 - channels), dtype=np.float32)
