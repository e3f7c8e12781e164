"""The images, as the files that both libraries read: MNIST, a part of it, or procedural ones in its form."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from teachenv.data import FileDataset, candidate_roots
from teachenv.experiment.writing import write_atomically
from teachenv.tasks.base import Task
from teachenv.tasks.mnist import MEAN, OFFICIAL_FILES, STD

Pixels = tuple[torch.Tensor, torch.Tensor]
"""Images, (n, 28, 28) uint8, and labels, (n,)."""


class Images(NamedTuple):
    """Images with labels.

    Attributes:
        name: what they really are.
        train: the training set.
        test: the test set.
    """

    name: str
    train: Pixels
    test: Pixels

    def task(self) -> Task:
        """The images as DACBench's transforms make them: in [0, 1], then normalised by MNIST's mean and deviation."""
        pool, test = ((_normalised(pixels), labels) for pixels, labels in (self.train, self.test))
        return Task("mnist", self.name, pool, test, num_outputs=10)

    def write(self, folder: Path) -> None:
        """Writes them where `torchvision.datasets.MNIST(folder)` finds them."""
        for part, (pixels, labels) in (("train", self.train), ("t10k", self.test)):
            raw, size = folder / "MNIST" / "raw", len(labels)
            write_atomically(
                raw / f"{part}-images-idx3-ubyte", struct.pack(">4i", 0x803, size, 28, 28) + pixels.numpy().tobytes()
            )
            write_atomically(
                raw / f"{part}-labels-idx1-ubyte", struct.pack(">2i", 0x801, size) + labels.byte().numpy().tobytes()
            )


def find_images(root: str | None, train: int, test: int) -> Images:
    """The first images of MNIST, if it is on this machine; else procedural ones, which is said on stderr.

    Args:
        root: folder of the data sets; None: the usual places.
        train: how many for training.
        test: how many for the test.
    """
    files = FileDataset("MNIST", "mnist", OFFICIAL_FILES)
    folders = [folder for each in candidate_roots(root) for folder in (each, each / files.folder)]
    complete = next((folder for folder in folders if not files.missing(folder)), None)
    if complete is None:
        print("mnist is not on this machine: procedural images in its form", file=sys.stderr, flush=True)
        return Images("procedural-28x28", _procedural(train, 0), _procedural(test, 1))
    parts = _read(complete, "train", train), _read(complete, "t10k", test)
    sizes = [len(labels) for _, labels in parts]
    return Images("mnist" if sizes == [60_000, 10_000] else f"mnist-subset-{sizes[0]}", *parts)


def _read(folder: Path, part: str, count: int) -> Pixels:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    raw = folder / "MNIST" / "raw"
    images = read_image_file(str(raw / f"{part}-images-idx3-ubyte"))
    return images[:count], read_label_file(str(raw / f"{part}-labels-idx1-ubyte"))[:count]


def _procedural(count: int, seed: int) -> Pixels:
    """A pattern for each of ten classes, under noise."""
    patterns = np.random.default_rng(0).integers(0, 128, (10, 28, 28))
    rng = np.random.default_rng((1, seed))
    labels = rng.integers(10, size=count)
    pixels = patterns[labels] + rng.integers(0, 128, (count, 28, 28))
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.unsqueeze(1).float().div(255).sub(MEAN).div(STD)
