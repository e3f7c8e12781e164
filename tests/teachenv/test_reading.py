"""Files that are damaged, cut off, foreign or not whole: an error that names the file, or an honest name."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch

from teachenv.bleu import references, texts
from teachenv.data import GLUE, FileDataset, find_dataset, load_glue, load_language
from teachenv.data.pickles import load_arrays
from teachenv.data.reading import honest_name, text_lines
from teachenv.data.root import fetch, fetch_archive
from teachenv.data.translation import load_translation, read_lines
from teachenv.data.vocabulary import END, UNKNOWN, pieces_of, words_of
from teachenv.errors import DatasetUnavailable
from teachenv.tasks import make_task
from teachenv.tasks.base import VOID

REAL = os.environ.get("TEACHENV_DATA")
SMALL = pytest.mark.filterwarnings("ignore:the files in .* are not the official")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TEACHENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one_line_naming(file: Path | str, load: Callable[[], Any]) -> str:
    with pytest.raises(DatasetUnavailable) as caught:
        load()
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


# --- texts -----------------------------------------------------------------------------------------------------------


def write_multi30k(root: Path) -> Path:
    for stem in ("train", "val", "test_2016_flickr"):
        for side in ("de", "en"):
            (root / "task1" / "raw").mkdir(parents=True, exist_ok=True)
            text = "".join(f"{stem} {side} {i}\n" for i in range(400))
            (root / "task1" / "raw" / f"{stem}.{side}.gz").write_bytes(gzip.compress(text.encode()))
    return root / "task1" / "raw" / "val.en.gz"


def write_iwslt(root: Path) -> Path:
    folder = root / "iwslt14.tokenized.de-en"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        for side in ("de", "en"):
            (folder / f"{split}.{side}").write_text("ein wort\n" * 5)
    return folder / "valid.en"


def write_wikitext(root: Path) -> Path:
    (root / "wikitext-2").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (root / "wikitext-2" / f"wiki.{split}.tokens").write_text("a b c\n" * 5)
    return root / "wikitext-2" / "wiki.valid.tokens"


def write_ptb(root: Path) -> Path:
    for split in ("train", "valid", "test"):
        (root / f"ptb.{split}.txt").write_text("a b c\n" * 5)
    return root / "ptb.valid.txt"


def write_glue(root: Path) -> Path:
    (root / "RTE").mkdir(parents=True)
    for split in ("train", "dev"):
        rows = "".join(f"{i}\tone {i}\tother {i}\tentailment\n" for i in range(20))
        (root / "RTE" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + rows)
    return root / "RTE" / "dev.tsv"


Writer = Callable[[Path], Path]
Loader = Callable[[Path], Any]
TEXTS: dict[str, tuple[Writer, Loader]] = {
    "multi30k": (write_multi30k, lambda root: load_translation("multi30k", data_root=root)),
    "iwslt14": (write_iwslt, lambda root: load_translation("iwslt14", data_root=root)),
    "wikitext-2": (write_wikitext, lambda root: load_language("wikitext-2", data_root=root)),
    "ptb": (write_ptb, lambda root: load_language("ptb", data_root=root)),
    "rte": (write_glue, lambda root: load_glue("rte", data_root=root)),
}


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(gzip.compress(b"") if file.suffix == ".gz" else b""),
    "no bytes": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(np.random.default_rng(0).bytes(500)),
    "zeros": lambda file: file.write_bytes(gzip.compress(bytes(500)) if file.suffix == ".gz" else bytes(500)),
    "latin-1": lambda file: file.write_bytes(gzip.compress(b"\xe4\n") if file.suffix == ".gz" else b"\xe4\n"),
    "a folder": as_folder,
}


@SMALL
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", TEXTS)
def test_a_damaged_text_is_named(name: str, damage: str, tmp_path: Path) -> None:
    write, load = TEXTS[name]
    file = write(tmp_path)
    DAMAGE[damage](file)
    one_line_naming(file, lambda: load(tmp_path))


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_part_of_a_gzip_file_is_named(part: float, tmp_path: Path) -> None:
    file = write_multi30k(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: round(part * len(content))])
    assert "no whole gzip file" in one_line_naming(file, lambda: load_translation("multi30k", data_root=tmp_path))


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_iwslt(tmp_path)

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in one_line_naming(file, lambda: list(text_lines(file)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        ("index\tsentence1\tsentence2\tlabel\n", "no row"),
        ("index\tsentence1\tlabel\n0\tone\tentailment\n", "no column 'sentence2'"),
        ("index\tsentence1\tsentence2\tlabel\n0\tone\tentailment\n" * 5, "lack columns"),
        ("index,sentence1,sentence2,label\n0,one,other,entailment\n", "no column"),
    ],
)
def test_a_table_that_lacks_something_is_named(content: str, problem: str, tmp_path: Path) -> None:
    file = write_glue(tmp_path)
    file.write_text(content)
    assert problem in one_line_naming(file, lambda: load_glue("rte", data_root=tmp_path))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("multi30k", 400), ("iwslt14", 5), ("wikitext-2", 20), ("ptb", 20)])
def test_what_is_not_whole_has_another_name(name: str, size: int, tmp_path: Path) -> None:
    write, load = TEXTS[name]
    write(tmp_path)
    with pytest.warns(UserWarning, match=f"not the official {name}.*not comparable"):
        assert load(tmp_path).dataset == f"{name}-subset-{size}"


def test_the_name_is_official_only_if_every_part_is() -> None:
    official = {"train rows": 10, "test rows": 5}
    assert honest_name("x", Path("f"), official, official) == "x"
    for found, changed, expected in (
        ({"train rows": 4, "test rows": 5}, (), "x-subset-4"),
        ({"train rows": 10, "test rows": 4}, (), "x-subset-10"),
        (official, ("a.txt",), "x-subset-10"),
    ):
        with pytest.warns(UserWarning, match="not the official x"):
            assert honest_name("x", Path("f"), found, official, changed=changed) == expected
    with pytest.warns(UserWarning, match="found 4 train rows, official 10"):
        assert honest_name("x", Path("f"), {"train rows": 4, "test rows": 5}, official, size=9) == "x-subset-9"


@pytest.mark.skipif(REAL is None or not (Path(REAL) / "ptb").is_dir(), reason="PTB is not on this machine")
@pytest.mark.parametrize("cut", ["train", "test"])
def test_a_half_of_the_penn_treebank_is_not_it(cut: str, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        content = (Path(str(REAL)) / "ptb" / f"ptb.{split}.txt").read_bytes()
        (tmp_path / f"ptb.{split}.txt").write_bytes(content[: len(content) // 2] if split == cut else content)
    with pytest.warns(UserWarning, match=rf"{cut} tokens, official .*ptb\.{cut}\.txt"):
        corpus = load_language("ptb", data_root=tmp_path)
    assert corpus.dataset == f"ptb-subset-{len(corpus.train)}"


# --- downloads -------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and where it can be downloaded from."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("part", [0.5, 0.98])
@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_a_download_that_is_cut_off_is_not_used(
    kind: str, part: float, served: tuple[Path, str], tmp_path: Path
) -> None:
    file, url = served[0] / f"rows.{kind}", f"{served[1]}/rows.{kind}"
    content = "".join(f"{i}\n" for i in range(999))
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rows", content)
    else:
        file.write_bytes(gzip.compress(content.encode()))
    whole = file.read_bytes()
    file.write_bytes(whole[: round(part * len(whole))])
    get = fetch_archive if kind == "zip" else fetch
    dataset = FileDataset("Rows", "rows", {"rows": ""}, lambda directory: get(url, directory))
    with pytest.raises(DatasetUnavailable, match=rf"Downloading it failed: http:.*rows\.{kind} came cut off"):
        find_dataset(dataset, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_what_a_killed_download_left_is_removed_and_what_goes_on_stays(tmp_path: Path) -> None:
    left = tmp_path / "rows" / ".download-killed"
    left.mkdir(parents=True)
    (left / "a part").write_text("a part")

    def download(directory: Path) -> None:
        assert not left.exists()
        other = FileDataset("Rows", "rows", {"others": ""}, lambda folder: (folder / "others").touch())
        assert find_dataset(other, tmp_path) == tmp_path / "rows"
        (directory / "own").touch()

    assert find_dataset(FileDataset("Rows", "rows", {"own": ""}, download), tmp_path) == tmp_path / "rows"
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["others", "own"]


def test_a_full_disk_leaves_nothing_of_a_download(tmp_path: Path) -> None:
    def full(directory: Path) -> None:
        (directory / "rows").write_text("a part")
        raise OSError(28, "No space left on device")

    with pytest.raises(DatasetUnavailable, match=r"Downloading it failed: .*No space left on device"):
        find_dataset(FileDataset("Rows", "rows", {"rows": ""}, full), tmp_path / "here")
    assert not (tmp_path / "here").exists()


# --- pickles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
        np.arange(3, dtype=">i4"),
        np.full((2, 1), 0.5, np.float32),
    ],
)
def test_arrays_are_read_from_pickles(array: np.ndarray, protocol: int) -> None:
    found = load_arrays(pickle.dumps({"data": array, "labels": [1, 2], "name": "ü"}, protocol))
    assert (found["labels"], found["name"]) == ([1, 2], "ü")
    assert found["data"].dtype == array.dtype
    np.testing.assert_array_equal(found["data"], array)


class Planted:
    """Becomes a call in a pickle."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_that_a_pickle_names_is_called(protocol: int, tmp_path: Path) -> None:
    victim = tmp_path / "planted"
    for planted in (
        Planted(os.mkdir, str(victim)),
        Planted(eval, f"__import__('os').mkdir({str(victim)!r})"),
        Planted(exec, f"import os; os.mkdir({str(victim)!r})"),
        Planted(os.system, f"mkdir {victim}"),
        Planted(getattr, "a", "upper"),
        Planted(np.save, str(victim), [1]),
        Planted(np.ndarray, (1,), "O", bytes(8)),  # would make an object of any address
        Planted(np.dtype, "O"),
    ):
        for content in (planted, {"data": planted}, [np.zeros(2), planted]):
            with pytest.raises((pickle.UnpicklingError, TypeError), match=r"refused|not callable"):
                load_arrays(pickle.dumps(content, protocol))
    assert not list(tmp_path.glob("planted*"))
    for foreign in (np.array([{}, []], dtype=object), np.array(["a"]), np.datetime64(3, "s"), range(3)):
        with pytest.raises((pickle.UnpicklingError, TypeError), match=r"refused|not callable"):
            load_arrays(pickle.dumps(foreign, protocol))


# --- vocabularies ----------------------------------------------------------------------------------------------------

TWO = (["ein Hund", "zwei Hunde"] * 5, ["eine Katze", "zwei Katzen"] * 5)


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "edited", "foreign", "a bare encoding", "a list"])
def test_a_kept_encoding_that_is_not_of_these_texts_is_named(damage: str, tmp_path: Path) -> None:
    for kept in TWO:
        pieces_of(kept, 30)
    folder = tmp_path / "cache" / "teachenv" / "bpe"
    files = sorted(folder.iterdir())
    assert len(files) == 2
    contents = [file.read_text() for file in files]
    for file, content, other in zip(files, contents, contents[::-1], strict=True):
        damaged = {
            "empty": "",
            "half": content[: len(content) // 2],
            "garbage": "\x00\x01garbage",
            "edited": content.replace("H", "K", 1) if "H" in content else content.replace("K", "H", 1),
            "foreign": other,
            "a bare encoding": '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}}}',
            "a list": "[]",
        }
        file.write_text(damaged[damage])
    for kept in TWO:
        assert "delete it" in one_line_naming(folder, lambda kept=kept: pieces_of(kept, 30))  # type: ignore[misc]


def test_a_full_disk_keeps_no_encoding_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pieces_of(TWO[0], 30).digest
    for file in (tmp_path / "cache" / "teachenv" / "bpe").iterdir():
        file.unlink()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert pieces_of(TWO[0], 30).digest == expected
    assert not list((tmp_path / "cache" / "teachenv" / "bpe").iterdir())


# --- unknown words in references -------------------------------------------------------------------------------------


def counted(hypothesis: str, reference: str) -> tuple[int, int, int]:
    """(words of the hypothesis, of the reference, words in common)."""
    score = sacrebleu.corpus_bleu([hypothesis], [[reference]])
    return score.sys_len, score.ref_len, score.counts[0]


@pytest.mark.parametrize("kind", ["words", "pieces"])
@pytest.mark.parametrize("written", ["<unk>", "<eos>", "<pad>", "<bos>", "中"])
@pytest.mark.parametrize("place", range(5))
def test_an_unknown_word_of_a_reference_is_one_word_that_nothing_matches(kind: str, written: str, place: int) -> None:
    known = ["ein Hund läuft sehr schnell"] * 3
    vocabulary = words_of(known) if kind == "words" else pieces_of(known, 60)
    words = known[0].split()
    words[place] = written
    target = [*vocabulary.encode(" ".join(words)), END]
    (reference,) = references(vocabulary, torch.tensor([[*target, VOID, VOID]]))
    assert len(reference.split()) == 5
    (same,) = texts(vocabulary, torch.tensor([target]))
    assert counted(same, reference) == (5, 5, 4)
    said = torch.tensor([[*vocabulary.encode(known[0]), END]])
    assert counted(texts(vocabulary, said)[0], reference) == (5, 5, 4)


def test_special_tokens_are_no_words_of_a_text() -> None:
    vocabulary = words_of(["a <unk> b <unk> <eos>", "<pad> a"])
    assert vocabulary.tokens[4:] == ("a", "b")
    assert vocabulary.encode("<unk> a <eos> <pad>") == [UNKNOWN, 4, UNKNOWN, UNKNOWN]


def test_escapes_of_moses_are_the_signs_that_they_stand_for(tmp_path: Path) -> None:
    for side in ("de", "en"):
        (tmp_path / f"a.{side}").write_text("it &apos;s &quot; x &amp;lt; &#91; &quot;\n")
    files = tmp_path / "a.de", tmp_path / "a.en"
    assert read_lines(*files, escaped=True).target == ["""it 's " x &lt; [ \""""]
    assert read_lines(*files).target == ["it &apos;s &quot; x &amp;lt; &#91; &quot;"]


# --- images of classes -----------------------------------------------------------------------------------------------


def test_every_glue_task_knows_its_official_sizes() -> None:
    assert all(set(task.rows) == set(task.files) for task in GLUE.values())


def test_a_list_of_images_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "CamVid").mkdir()
    for name in ("train", "val", "test"):
        (tmp_path / "CamVid" / f"{name}.txt").write_bytes(b"\xff\x00\x80")
    one_line_naming(
        tmp_path / "CamVid" / "train.txt",
        lambda: make_task("segmentation", dataset="camvid", data_root=tmp_path),
    )
