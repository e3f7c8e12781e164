"""Photographs in folders of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import teachenv
from teachenv import TeachEnv
from teachenv.tasks import make_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            (tmp_path / "pets" / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / label / f"{i}.png")
    return tmp_path


def test_each_folder_is_a_class(folder: Path) -> None:
    task = make_task("image-folder", dataset="pets", data_root=folder, image_size=32)
    assert (task.name, task.dataset, task.num_outputs) == ("pets", "pets", 2)
    assert task.pool[0].shape == (6, 3, 32, 32)
    assert task.pool[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert task.test[1].tolist() == [0, 0, 1, 1]
    assert abs(float(task.pool[0].mean())) < 1e-4
    assert len(make_task("image-folder", dataset="pets", data_root=folder, pool_size=4).pool[0]) == 4


def test_an_environment_trains_on_it(folder: Path) -> None:
    env = TeachEnv(
        task="image-folder",
        task_kwargs={"image_size": 32},
        dataset="pets",
        data_root=str(folder),
        student="resnet8",
        batch_size=2,
        dev_size=2,
        horizon=2,
    )
    _, info = env.reset(seed=0)
    assert info["dataset"] == "pets"
    env.step(np.zeros(4, np.float32))


def test_what_is_called_imagenet_is_counted(folder: Path) -> None:
    (folder / "pets").rename(folder / "imagenet")
    with pytest.warns(UserWarning, match="6 training images, official 1,281,167"):
        assert make_task("image-folder", data_root=folder).dataset == "imagenet-subset-6"


def test_what_cannot_be_used_is_named(folder: Path) -> None:
    with pytest.raises(teachenv.DatasetUnavailable, match="flowers was not found"):
        make_task("image-folder", dataset="flowers", data_root=folder)
    with pytest.raises(ValueError, match="image_size is 8"):
        make_task("image-folder", dataset="pets", data_root=folder, image_size=8)
    (folder / "pets" / "train" / "dog").rename(folder / "pets" / "train" / "wolf")
    with pytest.raises(teachenv.DatasetUnavailable, match="dog, wolf are in one of them only"):
        make_task("image-folder", dataset="pets", data_root=folder)
