"""Files of plain values: all comes back, nothing is run, and what is no such file is refused in one line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from teachenv import checkpoints
from teachenv.checkpoints import Codec, Refused


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    first: Any
    second: Any


KNOWN = (Point, Pair)
VALUES = {
    "plain": [None, True, 1, 2**140, -0.0, 0.1, "ü\n", {"a": {"b": []}}, b"\x00\xff"],
    "numbers that JSON lacks": [math.inf, -math.inf, math.nan],
    "keys": {1: "a", "1": "b", (1, "x"): "c", "~": "d", None: 2},
    "tuples": (1, (2, [3, ()])),
    "records": Point(Pair(torch.ones(2), 1), [Point(1)]),
    "tensors": [
        torch.randn(3, 4).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    ],
    "views": [torch.arange(12.0).view(3, 4).T, torch.arange(12.0)[3:5], torch.zeros(0, 3), torch.tensor(1.0)],
    "arrays": [
        np.arange(6).astype(dtype).reshape(2, 3)[:, ::-1]
        for dtype in ("f8", "f4", "f2", "i8", "i1", "u4", "u8", "?", ">f4")
    ],
    "scalars": [np.float32(0.1), np.int64(3), np.bool_(True), np.array(2.0)],
    "python's generator": random.getstate(),
    "numpy's": np.random.RandomState(0).get_state(),
    "generators": [np.random.default_rng(0), np.random.Generator(np.random.Philox(3))],
    "a state dictionary": OrderedDict(torch.nn.BatchNorm1d(3).state_dict()),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.random.Generator):
        return same(a.bit_generator.state, b.bit_generator.state)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Point):
        return same((a.x, a.y), (b.x, b.y))
    return repr(a) == repr(b)  # NaN, and the sign of zero


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_bitwise_and_of_the_same_type(name: str, tmp_path: Path) -> None:
    value = VALUES[name]
    checkpoints.save(tmp_path / "new" / "file.zip", value, "a thing", KNOWN)
    assert same(checkpoints.load(tmp_path / "new" / "file.zip", "a thing", KNOWN), _native(value))
    opened = io.BytesIO()
    checkpoints.save(opened, value, "a thing", KNOWN)
    assert opened.getvalue() == (tmp_path / "new" / "file.zip").read_bytes()
    opened.seek(0)
    assert same(checkpoints.load(opened, "a thing", KNOWN), _native(value))


def _native(value: Any) -> Any:
    """Arrays come back in the byte order of the machine."""
    if isinstance(value, list):
        return [_native(v) for v in value]
    return value.astype(value.dtype.newbyteorder("=")) if isinstance(value, np.ndarray) else value


def test_the_same_tensor_is_written_once(tmp_path: Path) -> None:
    tensor = torch.randn(1000)
    checkpoints.save(tmp_path / "x", [tensor] * 5, "a thing")
    assert (tmp_path / "x").stat().st_size < 6000
    checkpoints.save(tmp_path / "x", [tensor, tensor[:10], tensor.view(10, 100)], "a thing")
    assert same(checkpoints.load(tmp_path / "x", "a thing"), [tensor, tensor[:10], tensor.view(10, 100)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, object()]}, r"a\[1\] is of type builtins.object, which a file of plain values cannot hold"),
        ({"f": len}, "f is of type builtins.builtin_function_or_method"),
        ({1, 2}, "the value is of type builtins.set"),
        ([np.array(["a"])], r"\[0\] is an array of <U1, expected numbers"),
        ([torch.eye(2).to_sparse()], r"\[0\] is a tensor of torch.float32 and torch.sparse_coo, expected a dense one"),
        (Point(1), "is of type .*Point"),
    ],
)
def test_what_is_not_plain_is_not_written(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        checkpoints.save(tmp_path / "new" / "x", value, "a thing")
    assert list(tmp_path.iterdir()) == []


def written(path: Path) -> bytes:
    checkpoints.save(path, {"weights": torch.randn(50), "name": "x" * 50}, "a thing")
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused_in_one_line(part: float, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    content = written(path)
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"file.zip is (empty|damaged, cut off or no file of a thing)") as error:
        checkpoints.load(path, "a thing")
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    content = written(path)
    value = checkpoints.load(path, "a thing")
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=300).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            assert same(checkpoints.load(path, "a thing"), value)  # it was in a date, say


def test_weights_of_one_file_with_the_json_of_another_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        checkpoints.save(tmp_path / name, torch.randn(3), "a thing")
    paths = [(tmp_path / "a", "r"), (tmp_path / "b", "r"), (tmp_path / "mixed", "w")]
    with contextlib.ExitStack() as stack:
        a, b, mixed = (stack.enter_context(zipfile.ZipFile(path, mode)) for path, mode in paths)
        mixed.writestr("value.json", a.read("value.json"))
        mixed.writestr("tensors.safetensors", b.read("tensors.safetensors"))
    with pytest.raises(ValueError, match=r"mixed is damaged.*not those that it was written with"):
        checkpoints.load(tmp_path / "mixed", "a thing")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    checkpoints.save(path, 1, "a lamp")
    with pytest.raises(ValueError, match="file holds a lamp, expected a thing; choose another file"):
        checkpoints.load(path, "a thing")
    with pytest.raises(FileNotFoundError, match="other is not there; expected a file that holds a thing"):
        checkpoints.load(tmp_path / "other", "a thing")
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file that holds a thing"):
        checkpoints.load(tmp_path, "a thing")
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match=r"file holds no thing: it is a file of torch\.save, which may run code"):
        checkpoints.load(path, "a thing")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    checkpoints.save(path, 1, "a thing")
    with zipfile.ZipFile(path) as archive:
        about, tensors = archive.read("value.json").decode(), archive.read("tensors.safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("value.json", about.replace('"value": 1', f'"value": {"[" * 100_000}{"]" * 100_000}'))
        archive.writestr("tensors.safetensors", tensors)
    with pytest.raises(ValueError, match="file is damaged"):
        checkpoints.load(path, "a thing")


def test_a_codec_refuses_with_the_place(tmp_path: Path) -> None:
    def refuse(content: Any) -> Any:
        raise Refused(f"a set of {content}, which is not read")

    sets = Codec("set", lambda value: isinstance(value, set), sorted, refuse)
    checkpoints.save(tmp_path / "x", {"a": [0, {3, 4}]}, "a thing", [sets])
    with pytest.raises(Refused, match=r"x: a\[1\] is a set of \[3, 4\], which is not read"):
        checkpoints.load(tmp_path / "x", "a thing", [sets])
    with pytest.raises(Refused, match=r"x: a\[1\] is of the unknown kind 'set'; a newer version may have written it"):
        checkpoints.load(tmp_path / "x", "a thing")


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file.zip"
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    real = open

    def opened(name: Any, *args: Any) -> Any:
        return real("/dev/full" if ".part" in str(name) else name, *args)

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(OSError, match=r"No space left on device; the file was not written: .*file.zip"):
        checkpoints.save(path, torch.zeros(100_000), "a thing")
    assert list(tmp_path.iterdir()) == []


def test_the_json_can_be_read_by_anybody(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "x", {"rate": 0.1}, "a thing")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        about = json.loads(archive.read("value.json"))
    assert (about["kind"], about["value"]) == ("a thing", {"rate": 0.1})
