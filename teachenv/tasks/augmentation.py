"""Augmentation of image minibatches, drawn from a generator that the caller owns.

An episode must replay bitwise, so an augmentation keeps no state: the generator that it is given decides everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class FlipAndCrop:
    """Horizontal flip with probability 1/2, then a crop of the original size at a random offset after reflection.

    The pipeline of L2T-DLF for CIFAR (Wu et al., 2018): the image is padded by reflection and a window of the image's
    own size is cut out. Neither the padded image nor the flipped one is ever built: each output pixel is looked up
    at the source pixel it comes from, one gather per minibatch. A class and not a closure, so that environments that
    carry it can be pickled into worker processes.

    Attributes:
        padding: how many pixels the window may shift in each direction; 0 leaves only the flip.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}: expected 0 (flip only) or more pixels")

    def __call__(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augments a minibatch, each image on its own.

        Args:
            inputs: images, shape `(n, channels, height, width)`, any dtype. Not modified.
            rng: consumed by one call each for flips, vertical and horizontal offsets, in this order; how much it
                is consumed depends on `n` only.

        Returns:
            A new tensor of the shape, dtype and device of `inputs`.

        Raises:
            ValueError: the inputs are not image batches, or too small to be reflected by `padding` pixels.
        """
        if inputs.ndim != 4:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}: expected images (n, channels, height, width); "
                f"switch augmentation off for tasks whose inputs are not images"
            )
        n, channels, height, width = inputs.shape
        if self.padding >= min(height, width):
            raise ValueError(
                f"images are {height}x{width}: reflection by padding={self.padding} needs more than {self.padding} "
                f"pixels a side; use a smaller padding"
            )
        flip = rng.random(n) < 0.5
        rows = _shifted(height, rng.integers(-self.padding, self.padding + 1, size=n))
        columns = _shifted(width, rng.integers(-self.padding, self.padding + 1, size=n))
        columns = np.where(flip[:, None], width - 1 - columns, columns)

        pixels = torch.from_numpy(rows[:, :, None] * width + columns[:, None, :]).to(inputs.device)
        index = pixels.reshape(n, 1, height * width).expand(n, channels, height * width)
        return inputs.reshape(n, channels, height * width).gather(2, index).reshape(inputs.shape)


def _shifted(length: int, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Source coordinates `(n, length)` of an axis shifted by `offsets` (n,); a reflection repeats no edge pixel."""
    coordinates = np.arange(length) + offsets[:, None]
    reflected = (length - 1) - np.abs((length - 1) - np.abs(coordinates))
    return np.asarray(reflected, dtype=np.int64)
