import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets

from teachenv.data import FileDataset, candidate_roots, find_dataset
from teachenv.data import root as data_root_module
from teachenv.errors import DatasetUnavailable
from teachenv.tasks import make_task
from teachenv.tasks import mnist as mnist_module

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10
PIXELS = np.random.default_rng(1).integers(0, 256, (10, 3072), dtype=np.uint8)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees this machine's data, and none reaches the network."""
    real = os.environ.get("TEACHENV_DATA")
    monkeypatch.delenv("TEACHENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    return real


def write_mnist(directory: Path) -> Path:
    raw = directory / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        images, labels = IMAGES[:count], LABELS[:count]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return raw


def write_cifar(directory: Path, keys=str, protocol: int = 2, fine: bool = False) -> Path:
    folder = directory / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    names = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        entry = {"data": PIXELS, "fine_labels" if fine else "labels": list(range(10)), "batch_label": name}
        if keys is bytes:
            entry = {key.encode(): value for key, value in entry.items()}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=protocol))
    return folder


def make_official(monkeypatch, directory: Path, name: str) -> None:
    """Declare the files in `directory` to be the official release, by their md5 sums."""
    if name == "mnist":
        sums = {file: data_root_module._md5(directory / file) for file in mnist_module.OFFICIAL_FILES}
        monkeypatch.setattr(mnist_module, "OFFICIAL_FILES", sums)
        return
    source = torchvision.datasets.CIFAR10
    for table in ("train_list", "test_list"):
        files = [file for file, _ in getattr(source, table)]
        sums = [[file, data_root_module._md5(directory / source.base_folder / file)] for file in files]
        monkeypatch.setattr(source, table, sums)


# --- where data is looked for ----------------------------------------------------------------------------------------


def test_an_explicit_root_is_the_only_one(monkeypatch, tmp_path):
    monkeypatch.setenv("TEACHENV_DATA", str(tmp_path / "from-environment"))
    assert candidate_roots(tmp_path / "here") == (tmp_path / "here",)


def test_the_environment_variable_comes_before_the_cache(monkeypatch, tmp_path):
    assert candidate_roots() == (tmp_path / "cache" / "teachenv",)
    monkeypatch.setenv("TEACHENV_DATA", str(tmp_path / "data"))
    assert candidate_roots() == (tmp_path / "data", tmp_path / "cache" / "teachenv")
    monkeypatch.setenv("TEACHENV_DATA", "")  # set but empty means not set, as is the habit of shells
    assert candidate_roots() == (tmp_path / "cache" / "teachenv",)


def test_without_xdg_the_cache_is_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert candidate_roots() == (tmp_path / ".cache" / "teachenv",)
    assert candidate_roots("~/data") == (tmp_path / "data",)


@pytest.mark.parametrize("folder", ["", "mnist"])
@pytest.mark.parametrize("how", ["argument", "variable", "cache"])
def test_data_is_found_in_every_place_and_either_layout(monkeypatch, tmp_path, folder, how):
    root = tmp_path / "cache" / "teachenv" if how == "cache" else tmp_path / "data"
    write_mnist(root / folder)
    make_official(monkeypatch, root / folder, "mnist")
    if how == "variable":
        monkeypatch.setenv("TEACHENV_DATA", str(root))
    task = make_task("mnist", data_root=root if how == "argument" else None)
    assert task.dataset == "mnist"


def test_an_explicit_root_without_the_data_does_not_fall_through(monkeypatch, tmp_path):
    write_mnist(tmp_path / "elsewhere")
    monkeypatch.setenv("TEACHENV_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DatasetUnavailable, match="because data_root was given") as raised:
        make_task("mnist", data_root=tmp_path / "empty")
    assert "elsewhere" not in str(raised.value)


def test_the_error_says_what_was_looked_for_where_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TEACHENV_DATA", str(tmp_path / "data"))
    raw = write_mnist(tmp_path / "data" / "mnist")
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetUnavailable) as raised:
        make_task("mnist")
    message = str(raised.value)
    for directory in (tmp_path / "data", tmp_path / "cache" / "teachenv"):
        assert f"{directory}  (" in message
        assert f"{directory / 'mnist'}  (" in message
    assert "mnist  (lacks MNIST/raw/t10k-labels-idx1-ubyte)" in message
    assert "no such directory" in message
    assert "no network in tests" in message
    assert "TEACHENV_DATA" in message
    assert "MNIST/raw/train-images-idx3-ubyte" in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_points_to_the_labelled_procedural_images_but_does_not_use_them(name):
    with pytest.raises(DatasetUnavailable, match="dataset='synthetic'"):
        make_task(name)


# --- downloading -----------------------------------------------------------------------------------------------------


def fake_download(self) -> None:
    write_mnist(Path(self.root))


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_missing_data_is_downloaded_once_into_the_given_root(monkeypatch, tmp_path):
    write_mnist(tmp_path / "original")
    make_official(monkeypatch, tmp_path / "original", "mnist")
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fake_download)
    root = tmp_path / "new" / "root"
    first = make_task("mnist", data_root=root)
    assert tree(root) == sorted(
        ["mnist", "mnist/MNIST", "mnist/MNIST/raw", *(f"mnist/{f}" for f in mnist_module.OFFICIAL_FILES)]
    )

    def refuse(self):
        raise AssertionError("the data is there already")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    assert torch.equal(make_task("mnist", data_root=root).pool[0], first.pool[0])


def test_an_interrupted_download_leaves_nothing_behind(monkeypatch, tmp_path):
    def interrupted(self):
        fake_download(self)
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", interrupted)
    with pytest.raises(DatasetUnavailable, match="the line went dead"):
        make_task("mnist", data_root=tmp_path / "new" / "root")
    assert tree(tmp_path) == []


def test_an_incomplete_download_is_not_used(tmp_path):
    def one_of_two(directory: Path) -> None:
        (directory / "a").write_text("a")

    dataset = FileDataset("Two", "two", {"a": "", "b": ""}, one_of_two)
    with pytest.raises(DatasetUnavailable, match="finished without b"):
        find_dataset(dataset, tmp_path)
    assert tree(tmp_path) == []


def test_a_root_that_cannot_be_written_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("TEACHENV_DATA", str(tmp_path / "file"))
    dataset = FileDataset("One", "one", {"a": ""}, lambda directory: (directory / "a").touch())
    assert find_dataset(dataset) == tmp_path / "cache" / "teachenv" / "one"
    with pytest.raises(DatasetUnavailable, match="cannot be written"):
        find_dataset(dataset, tmp_path / "file")


# --- MNIST -----------------------------------------------------------------------------------------------------------


def test_mnist_is_normalised_and_in_file_order(monkeypatch, tmp_path):
    write_mnist(tmp_path)
    make_official(monkeypatch, tmp_path, "mnist")
    task = make_task("mnist", data_root=tmp_path)
    assert (task.name, task.dataset, task.num_outputs) == ("mnist", "mnist", 10)
    assert task.pool[0].shape == (12, 1, 28, 28)
    assert task.pool[0].dtype == torch.float32
    expected = (IMAGES[:, None] / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(task.pool[0].numpy(), expected, atol=1e-5)
    assert task.pool[1].tolist() == LABELS.tolist()
    assert len(task.test[0]) == 5


def test_a_smaller_pool_is_the_subset_that_the_task_itself_would_draw(monkeypatch, tmp_path):
    write_mnist(tmp_path)
    make_official(monkeypatch, tmp_path, "mnist")
    small = make_task("mnist", data_root=tmp_path, pool_size=7, split_seed=3)
    expected = make_task("mnist", data_root=tmp_path).subset_pool(7, 3)
    assert torch.equal(small.pool[0], expected.pool[0])
    assert torch.equal(small.pool[1], expected.pool[1])
    with pytest.raises(ValueError, match="pool size is 13: expected 1 to 12"):
        make_task("mnist", data_root=tmp_path, pool_size=13)


def test_unofficial_mnist_files_are_announced_and_named(tmp_path):
    write_mnist(tmp_path)
    with pytest.warns(UserWarning, match="not the official mnist"):
        assert make_task("mnist", data_root=tmp_path).dataset == "mnist-subset-12"


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"<html>not found</html>", None])
def test_a_damaged_mnist_file_is_named(tmp_path, file, damage):
    raw = write_mnist(tmp_path)
    damage = (raw / file).read_bytes()[:-2] if damage is None else damage
    (raw / file).write_bytes(damage)
    with pytest.raises(DatasetUnavailable, match=rf"{file} is damaged: .*Delete it"):
        make_task("mnist", data_root=tmp_path)


def test_mnist_files_that_do_not_belong_together_are_an_error(tmp_path):
    raw = write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(DatasetUnavailable, match="5 labels for 12 images"):
        make_task("mnist", data_root=tmp_path)


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def test_official_cifar_is_centred_by_the_mean_image_of_the_training_set(monkeypatch, tmp_path):
    write_cifar(tmp_path / "cifar10")
    make_official(monkeypatch, tmp_path / "cifar10", "cifar10")
    task = make_task("cifar10", data_root=tmp_path)
    assert (task.name, task.dataset, task.num_outputs) == ("cifar10", "cifar10", 10)
    assert task.pool[0].shape == (50, 3, 32, 32)
    assert task.pool[0].dtype == torch.float32
    assert task.augment is not None
    assert task.pool[0].mean(0).abs().max() < 1e-6
    expected = ((PIXELS - PIXELS.mean(0)) / 255).reshape(10, 3, 32, 32)
    np.testing.assert_allclose(task.test[0].numpy(), expected, atol=1e-6)
    part = make_task("cifar10", data_root=tmp_path, pool_size=5, split_seed=2)
    assert torch.equal(part.pool[0], task.subset_pool(5, 2).pool[0])  # the mean is that of the whole training set


def test_a_copy_with_other_checksums_is_read_and_called_a_subset(tmp_path):
    write_cifar(tmp_path)
    with pytest.warns(UserWarning, match="not comparable with published ones") as warned:
        task = make_task("cifar10", data_root=tmp_path)
    assert len(warned) == 1
    assert (task.name, task.dataset) == ("cifar10", "cifar10-subset-50")


@pytest.mark.parametrize("keys", [str, bytes])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_way_of_pickling_the_batches_is_read(tmp_path, keys, protocol):
    write_cifar(tmp_path, keys=keys, protocol=protocol, fine=True)
    with pytest.warns(UserWarning, match="the official cifar100"):
        task = make_task("cifar100", data_root=tmp_path)
    assert (task.dataset, task.num_outputs) == ("cifar100-subset-10", 100)
    assert task.pool[1].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (b"", "cannot be unpickled"),
        (b"\x80\x02garbage", "cannot be unpickled"),
        (pickle.dumps([1, 2]), "cannot be unpickled"),
        (pickle.dumps({"data": PIXELS}), "cannot be unpickled"),
        (pickle.dumps({"data": PIXELS[:, :10], "labels": [0] * 10}), "expected uint8"),
        (pickle.dumps({"data": PIXELS, "labels": [0] * 9}), "for 10 images"),
        (pickle.dumps({"data": PIXELS, "labels": [10] * 10}), r"lie in \[10, 10\]"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, damage, problem):
    folder = write_cifar(tmp_path)
    (folder / "data_batch_3").write_bytes(damage)
    with pytest.raises(DatasetUnavailable, match=rf"data_batch_3 is damaged: .*{problem}"):
        make_task("cifar10", data_root=tmp_path)


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_a_batch_that_wants_to_run_code_is_refused(tmp_path):
    folder = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": Hostile(tmp_path / "pwned"), "labels": []}))
    with pytest.raises(DatasetUnavailable, match=r"test_batch is damaged.*refused to load"):
        make_task("cifar10", data_root=tmp_path)
    assert not (tmp_path / "pwned").exists()


# --- real files, on machines that have them --------------------------------------------------------------------------


def test_real_mnist(isolated):
    if not isolated or not any((Path(isolated) / f / "MNIST/raw").is_dir() for f in ("", "mnist")):
        pytest.skip("TEACHENV_DATA names no directory with MNIST")
    task = make_task("mnist", data_root=isolated, pool_size=20_000)
    assert (task.dataset, len(task.test[0])) == ("mnist", 10_000)
    assert abs(float(task.pool[0].mean())) < 0.01
    assert abs(float(task.pool[0].std()) - 1) < 0.01


@pytest.mark.filterwarnings("ignore:the files in .* are not the official:UserWarning")
def test_real_cifar10(isolated):
    if not isolated or not any((Path(isolated) / f / "cifar-10-batches-py").is_dir() for f in ("", "cifar10")):
        pytest.skip("TEACHENV_DATA names no directory with CIFAR-10")
    task = make_task("cifar10", data_root=isolated, pool_size=1_000)
    assert task.dataset.startswith("cifar10")
    assert task.pool[0].shape == (1_000, 3, 32, 32)
    assert 0.2 < float(task.pool[0].std()) < 0.3
    assert torch.bincount(task.test[1]).unique().numel() == 1
