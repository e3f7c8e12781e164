"""CIFAR-10 and CIFAR-100 in their native pickle layout, downloaded by torchvision.

Preprocessing follows L2T-DLF (Wu et al., 2018): the mean image of the whole training set is subtracted, pixel by
pixel, and minibatches may be augmented by a random flip and a random crop after reflection padding of 4 pixels. The
paper does not say what range pixels have; here they are divided by 255.

A copy whose md5 sums differ from the official release is read, with a warning, but never called `"cifar10"`. The
files are pickles, and such a copy can come from anywhere, so they are read as data (`teachenv.data.pickles`): one
that wants to call something is reported as damaged, not run.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from teachenv.data import FileDataset, find_dataset
from teachenv.data.pickles import load_arrays
from teachenv.data.reading import damaged, honest_name, read_bytes
from teachenv.errors import unknown_name
from teachenv.tasks.augmentation import FlipAndCrop
from teachenv.tasks.base import Task, subset_indices

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
_PIXELS = 3 * 32 * 32


def cifar10(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the CIFAR-10 task: inputs `(n, 3, 32, 32)` float32 within [-1, 1], ten classes.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: None or `"cifar10"`; `"synthetic"` for the procedural images of `teachenv.tasks.synthetic`,
            which are labelled so.
        pool_size: number of labelled samples, drawn at random from the training set; None for all in file order.
        split_seed: seed of that draw (of the images themselves for `"synthetic"`).

    Raises:
        DatasetUnavailable: the files are not on this machine and cannot be downloaded, or one is damaged.
        ValueError: `dataset` or `pool_size` is not as above.

    Warns:
        UserWarning: the files are not the official ones; `Task.dataset` then says
            `"cifar10-subset-<number of training images>"`.
    """
    return _cifar("cifar10", 10, data_root, dataset, pool_size, split_seed)


def cifar100(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
) -> Task:
    """Makes the CIFAR-100 task, with the 100 fine labels; everything else is as in `cifar10`."""
    return _cifar("cifar100", 100, data_root, dataset, pool_size, split_seed)


def _cifar(
    name: str,
    num_classes: int,
    data_root: str | os.PathLike[str] | None,
    dataset: str | None,
    pool_size: int | None,
    split_seed: int,
) -> Task:
    if dataset == "synthetic":
        from teachenv.tasks.synthetic import make_synthetic

        return make_synthetic(num_classes=num_classes, pool_size=pool_size, seed=split_seed)
    if dataset not in (None, name):
        raise unknown_name(f"dataset for task {name!r}", dataset, [name, "synthetic"])

    files, train_files, test_files = _native_files(name)
    directory = find_dataset(files, data_root)
    images, labels = _read([directory / file for file in train_files], num_classes)
    test_images, test_labels = _read([directory / file for file in test_files], num_classes)
    mean = images.mean(axis=0, dtype=np.float64).astype(np.float32)  # of the whole training set, whatever the pool
    sizes = {"training images": len(labels), "test images": len(test_labels)}
    data_name = honest_name(name, directory, sizes, {}, changed=files.unofficial(directory))
    if pool_size is not None:
        index = subset_indices(len(labels), pool_size, split_seed)
        images, labels = images[index], labels[index]
    return Task(
        name=name,
        dataset=data_name,
        pool=(_centred(images, mean), torch.from_numpy(labels)),
        test=(_centred(test_images, mean), torch.from_numpy(test_labels)),
        num_outputs=num_classes,
        augment=FlipAndCrop(padding=4),
    )


def _centred(images: npt.NDArray[np.uint8], mean: npt.NDArray[np.float32]) -> torch.Tensor:
    """Subtracts the mean image `(3072,)` from images `(n, 3072)` and scales to float32 `(n, 3, 32, 32)`."""
    pixels = images.astype(np.float32)
    pixels -= mean
    pixels /= 255.0
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32))


def _native_files(name: str) -> tuple[FileDataset, list[str], list[str]]:
    """The files of the native layout with torchvision's official md5 sums: all, those of train, those of test."""
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]

    def download(directory: Path) -> None:
        source(str(directory), download=True)

    train = {f"{source.base_folder}/{file}": str(md5) for file, md5 in source.train_list}
    test = {f"{source.base_folder}/{file}": str(md5) for file, md5 in source.test_list}
    files = FileDataset(
        title={"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name],
        folder=name,
        files={**train, **test},
        download=download,
        hint="Procedural images, labelled as such in every result, can be had with dataset='synthetic'.",
    )
    return files, list(train), list(test)


def _read(paths: list[Path], num_classes: int) -> Arrays:
    """Reads and joins batches: images `(n, 3072)` uint8, channels first, and labels `(n,)` int64."""
    batches = [_read_batch(path, num_classes) for path in paths]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path, num_classes: int) -> Arrays:
    content = read_bytes(path)
    try:
        entry = load_arrays(content)
        # Python 2 wrote the keys as byte strings, which later tools may have kept as bytes.
        entry = {key.decode() if isinstance(key, bytes) else key: value for key, value in entry.items()}
        images = np.asarray(entry["data"])
        labels = np.asarray(entry["labels"] if "labels" in entry else entry["fine_labels"])
    except Exception as error:  # unpickling damaged bytes can raise nearly anything
        raise damaged(path, f"it cannot be unpickled ({type(error).__name__}: {error})") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _PIXELS or len(images) == 0:
        raise damaged(path, f"'data' is {images.dtype} {images.shape}, expected uint8 (n, {_PIXELS})")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise damaged(path, f"the labels are {labels.dtype} {labels.shape} for {len(images)} images")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise damaged(path, f"the labels lie in [{labels.min()}, {labels.max()}], expected [0, {num_classes})")
    return images, labels.astype(np.int64)
