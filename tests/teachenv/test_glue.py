"""GLUE's files: what is read from them, and which samples are for what."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from teachenv.data import GLUE, GlueData, Texts, load_glue
from teachenv.data import glue as module
from teachenv.errors import DatasetUnavailable

REAL = os.environ.get("TEACHENV_DATA")
SMALL = pytest.mark.filterwarnings("ignore:the files in .* are not the official")
ROWS = {"train": 40, "dev": 9, "test": 7}


def lines(name: str, split: str, rows: int) -> list[str]:
    """A file of a task, its columns in another order than the loader names them."""
    task = GLUE[name]
    header = ["index", task.label, *reversed(task.texts)]
    found = ["\t".join(header)]
    for i in range(rows):
        texts = [f'{split} {i} {column} says "so' for column in reversed(task.texts)]
        found.append("\t".join([str(i), task.labels[i % len(task.labels)], *texts]))
    return found


def write(root: Path, name: str, change: Callable[[list[str]], list[str]] = lambda rows: rows) -> Path:
    task = GLUE[name]
    (root / task.folder).mkdir(parents=True)
    for split, file in task.files.items():
        text = "\r\n".join(change(lines(name, split, ROWS[split]))) + "\r\n"
        (root / task.folder / file).write_bytes(b"\xef\xbb\xbf" + text.encode())
    return root


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees this machine's data, and none reaches the network."""
    monkeypatch.delenv("TEACHENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_ARCHIVES", (tmp_path / "nowhere").as_uri())
    monkeypatch.setattr(module, "_MRPC", (tmp_path / "nowhere").as_uri())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands where GLUE is downloaded from."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in ("_ARCHIVES", "_MRPC"):
            monkeypatch.setattr(module, name, f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


def parts(data: GlueData) -> dict[str, set[str]]:
    return {name: set(getattr(data, name).first) for name in ("train", "feedback", "dev", "test")}


@SMALL
@pytest.mark.parametrize("name", GLUE)
def test_what_stands_in_the_files(name: str, tmp_path: Path) -> None:
    task, data = GLUE[name], load_glue(name, data_root=write(tmp_path, name), protocol="two-way")
    assert data.train.labels.dtype == np.int64
    order = np.argsort([int(text.split()[1]) for text in data.train.first])
    train = data.train.at(order)
    assert train.labels.tolist() == [i % len(task.labels) for i in range(40)]
    assert train.first[3] == f'train 3 {task.texts[0]} says "so'
    if len(task.texts) == 1:
        assert train.second is None
    else:
        assert train.second is not None
        assert train.second[3] == f'train 3 {task.texts[1]} says "so'
    assert (data.num_classes, data.f1) == (len(task.labels), name in ("mrpc", "qqp"))


@SMALL
@pytest.mark.parametrize("name", ["mrpc", "rte"])
def test_three_ways_are_disjoint(name: str, tmp_path: Path) -> None:
    data = load_glue(name, data_root=write(tmp_path, name))
    found = parts(data)
    assert len(set().union(*found.values())) == sum(map(len, found.values()))
    assert len(data.feedback) == 4
    # MRPC's own dev and labelled test; elsewhere dev is drawn and GLUE's dev reported.
    sizes = (36, 9, 7) if name == "mrpc" else (32, 4, 9)
    assert (len(data.train), len(data.dev), len(data.test)) == sizes
    assert all(text.startswith("train") for text in found["feedback"])
    assert all(text.startswith("test" if name == "mrpc" else "dev") for text in found["test"])


@SMALL
def test_two_ways_are_the_papers(tmp_path: Path) -> None:
    data = load_glue("mrpc", data_root=write(tmp_path, "mrpc"), protocol="two-way")
    found = parts(data)
    assert found["feedback"] == found["dev"] == found["test"]
    assert len(data.train) == 40


@SMALL
def test_draws_depend_on_the_seed_alone(tmp_path: Path) -> None:
    write(tmp_path, "rte")
    one, same, other = (
        parts(load_glue("rte", data_root=tmp_path, split_seed=s, feedback_size=5, dev_size=6, train_size=7))
        for s in (0, 0, 1)
    )
    assert one == same
    assert one != other
    assert [len(one[name]) for name in ("train", "feedback", "dev")] == [7, 5, 6]


@SMALL
def test_scores(tmp_path: Path) -> None:
    mrpc = load_glue("mrpc", data_root=write(tmp_path, "mrpc"))
    labels, predictions = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1])
    assert mrpc.scores(predictions, labels) == {"accuracy": 0.5, "f1": 0.5}
    assert mrpc.scores(np.zeros(4, int), labels) == {"accuracy": 0.5, "f1": 0.0}


def test_files_of_other_sizes_are_announced_and_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"found 40 train rows, official 2,490"):
        assert load_glue("rte", data_root=write(tmp_path, "rte")).dataset == "glue-rte-subset-40"


@SMALL
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0].replace("label", "lable"), *rows[1:]], "no column 'label'"),
        (lambda rows: [*rows, rows[1].replace("entailment", "maybe")], r"labels \['maybe'\]"),
        (
            lambda rows: [row[:30] for row in rows[:1]] + [row.split("\t")[0] for row in rows[1:]],
            "no column|lack columns",
        ),
        (lambda rows: rows[:1], "no row"),
    ],
)
def test_damaged_files_are_named(change: Callable[[list[str]], list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match=message) as caught:
        load_glue("rte", data_root=write(tmp_path, "rte", change))
    assert "RTE/train.tsv" in str(caught.value)


@SMALL
def test_a_short_row_is_left_out(tmp_path: Path) -> None:
    data = load_glue("qqp", data_root=write(tmp_path, "qqp", lambda rows: [*rows, "99\t1"]), protocol="two-way")
    assert len(data.train) == 40


@SMALL
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "mrcp"}, "mrpc"),
        ({"protocol": "one-way"}, "two-way"),
        ({"feedback_size": 0.0}, "feedback_size"),
        ({"train_size": 99}, "99 of the 32"),
        ({"dev_size": 40}, "40 of the 36"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_glue(**{"name": "rte", "data_root": write(tmp_path, "rte")} | wrong)  # type: ignore[arg-type]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match=r"GLUE's RTE was not found(.|\n)*RTE/train.tsv"):
        load_glue("rte", data_root=tmp_path)


@SMALL
def test_an_archive_is_downloaded(served: Path, tmp_path: Path) -> None:
    write(tmp_path / "there", "rte")
    with zipfile.ZipFile(served / "RTE.zip", "w") as archive:
        for path in (tmp_path / "there" / "RTE").iterdir():
            archive.write(path, f"RTE/{path.name}")
    assert len(load_glue("rte", data_root=tmp_path / "here", protocol="two-way").train) == 40
    assert sorted(p.name for p in (tmp_path / "here" / "glue" / "RTE").iterdir()) == ["dev.tsv", "train.tsv"]


@SMALL
def test_mrpc_is_put_together_as_glue_does(served: Path, tmp_path: Path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = [f"{i % 2}\t{i}\t{i + 100}\tfirst {i}\tsecond {i}" for i in range(10)]
    (served / "msr_paraphrase_train.txt").write_text("\ufeff" + "\n".join([header, *rows]) + "\n", "utf-8")
    (served / "msr_paraphrase_test.txt").write_text("\n".join([header, *rows[:2]]) + "\n", "utf-8")
    (served / "mrpc_dev_ids.tsv").write_text("3\t103\n7\t107\n5\t999\n", "utf-8")
    data = load_glue("mrpc", data_root=tmp_path / "here", protocol="two-way")
    assert sorted(data.dev.first) == ["first 3", "first 7"]
    assert len(data.train) == 8


@pytest.mark.skipif(REAL is None or not (Path(REAL) / "glue").is_dir(), reason="GLUE is not on this machine")
@pytest.mark.parametrize("name", ["mrpc", "rte", "sst-2"])
def test_real_files(name: str) -> None:
    data = load_glue(name, data_root=REAL)
    assert data.dataset == f"glue-{name}"
    everything = [getattr(data, part) for part in ("train", "feedback", "dev", "test")]
    assert all(isinstance(part, Texts) and set(part.labels) == {0, 1} for part in everything)
    assert not any(text.startswith('"') and text.endswith('\\"') for part in everything for text in part.first)
