"""MNIST through torchvision: 60,000 labelled images for the pool, 10,000 for test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from teachenv.data import FileDataset, find_dataset
from teachenv.data.reading import damaged, honest_name, unreadable
from teachenv.errors import unknown_name
from teachenv.tasks.base import Task, subset_indices
from teachenv.tasks.splits import Split

MEAN, STD = 0.1307, 0.3081
"""Mean and deviation of all pixels of the training images, scaled to [0, 1]."""

_MAGIC = {"read_image_file": 0x803, "read_label_file": 0x801}  # bytes, of three dimensions and of one

# md5 sums of the official files as they are on disk, unpacked.
OFFICIAL_FILES = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the MNIST task: inputs `(n, 1, 28, 28)` float32, ten classes.

    Pixels are scaled to [0, 1], then normalised by the training set's mean 0.1307 and standard deviation 0.3081.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: None or `"mnist"`.
        pool_size: number of labelled samples, drawn at random from the 60,000; None for all of them in file order.
        split_seed: seed of that draw.

    Raises:
        DatasetUnavailable: the files are not on this machine and cannot be downloaded, or one is damaged.
        ValueError: `dataset` or `pool_size` is not as above.

    Warns:
        UserWarning: the files are readable but not the official ones; `Task.dataset` then says
            `"mnist-subset-<number of training images>"`.
    """
    if dataset not in (None, "mnist"):
        raise unknown_name("dataset for task 'mnist'", dataset, ["mnist"])
    files = FileDataset("MNIST", "mnist", OFFICIAL_FILES, _download)
    directory = find_dataset(files, data_root)
    images, labels = _read_split(directory, "train")
    test_images, test_labels = _read_split(directory, "t10k")
    sizes = {"training images": len(labels), "test images": len(test_labels)}
    name = honest_name("mnist", directory, sizes, {}, changed=files.unofficial(directory))
    if pool_size is not None:
        index = torch.from_numpy(subset_indices(len(labels), pool_size, split_seed))
        images, labels = images[index], labels[index]
    return Task("mnist", name, (_normalised(images), labels), (_normalised(test_images), test_labels), num_outputs=10)


def _normalised(images: torch.Tensor) -> torch.Tensor:
    return images.unsqueeze(1).to(torch.float32).div_(255.0).sub_(MEAN).div_(STD)


def _read_split(directory: Path, part: str) -> Split:
    """Reads images `(n, 28, 28)` uint8 and labels `(n,)` int64, or raises an error that names the damaged file."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images_path = directory / f"MNIST/raw/{part}-images-idx3-ubyte"
    labels_path = directory / f"MNIST/raw/{part}-labels-idx1-ubyte"
    images, labels = _read(images_path, read_image_file), _read(labels_path, read_label_file)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise damaged(images_path, f"it holds images of shape {tuple(images.shape)}, expected (n, 28, 28)")
    if len(labels) != len(images):
        raise damaged(labels_path, f"it holds {len(labels)} labels for {len(images)} images")
    if int(labels.max()) > 9:
        raise damaged(labels_path, f"it holds the label {int(labels.max())}, expected 0 to 9")
    return images, labels


def _read(path: Path, reader: Callable[[str], torch.Tensor]) -> torch.Tensor:
    try:
        with path.open("rb") as stream:
            begin = int.from_bytes(stream.read(4), "big")
    except OSError as error:
        raise unreadable(path, error) from error
    if begin != _MAGIC[reader.__name__]:
        raise damaged(path, f"it is no idx file of these (it begins with {begin}, expected {_MAGIC[reader.__name__]})")
    try:
        return reader(str(path))
    except Exception as error:  # torchvision's parser fails in many ways on bytes that are not idx
        raise damaged(path, f"it cannot be read as an idx file ({type(error).__name__}: {error})") from error


def _download(directory: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(str(directory), train=True, download=True)
