"""Checkpoints: no two pieces of work share one, and none that is damaged or planted is taken up."""

from __future__ import annotations

import functools
import pickle
import string
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import meta
from benchmarks.l2t_dlf_translation import work as translation
from teachenv import checkpoints
from teachenv.experiment import comparison, loop, methods, teachers
from teachenv.experiment.cases import Case
from teachenv.experiment.setting import Configuration, Setting
from teachenv.state import StudentState

# What names and file systems trip over.
_NAMES = st.one_of(
    st.sampled_from(["a", "A", "a.b", "a.c", "a/b", "a:b", "a-b", "a b", "..", "", "12.5", "12.25", "ä", "a\n"]),
    st.text("aB1./\\: \n\0ä\u2028"),
)
_VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _NAMES)
_IDENTITIES = st.fixed_dictionaries(
    {
        **dict.fromkeys(("benchmark", "task", "dataset", "student", "method"), _NAMES),
        "seed": st.integers(0, 3),
        "config": st.dictionaries(_NAMES, st.one_of(_VALUES, st.lists(_VALUES), st.dictionaries(_NAMES, _VALUES))),
    }
)


def _as_text(value: Any) -> Any:
    """What tells settings apart: 1 is neither 1.0 nor True, and the order of keys does not matter."""
    if isinstance(value, dict):
        return sorted((key, _as_text(inner)) for key, inner in value.items())
    return [_as_text(inner) for inner in value] if isinstance(value, list) else repr(value)


def _case(identity: dict[str, Any]) -> Case:
    return Case(**identity, label="a case", function=print)


@settings(max_examples=50)
@given(_IDENTITIES, _IDENTITIES)
def test_two_pieces_of_work_share_a_checkpoint_only_if_they_are_one(one: dict[str, Any], other: dict[str, Any]) -> None:
    names = [_case(identity).digest for identity in (one, other)]
    assert (names[0] == names[1]) == (_as_text(one) == _as_text(other))
    assert all(name and set(name) <= set(string.digits + "abcdef") for name in names)


@settings(max_examples=50)
@given(_IDENTITIES, st.sampled_from(["benchmark", "task", "dataset", "student", "method", "seed", "config"]))
def test_every_part_of_an_identity_is_in_the_name(identity: dict[str, Any], part: str) -> None:
    changed = {"seed": identity["seed"] + 1, "config": {**identity["config"], "one": "more", "key": 1}}
    other = identity | {part: changed.get(part, f"{identity[part]}.")}
    assert _case(identity).digest != _case(other).digest


def _warm_start(file: Path, patch: pytest.MonkeyPatch) -> None:
    translation.Started("lstm-1", 0.0, file)()


def _half_a_warm_start(file: Path, patch: pytest.MonkeyPatch) -> None:
    student = SimpleNamespace(parameters={}, slots={}, buffers={})
    warming = translation._WarmUp(SimpleNamespace(student=student))  # type: ignore[arg-type]
    loop.train(warming, [1], file, translation._HALF, (StudentState,))


def _record(file: Path, patch: pytest.MonkeyPatch) -> None:
    teacher = _teacher()
    teacher.save(file.with_name(teachers.TEACHER))
    teachers.learned(teacher, 8, file.parent)


@functools.cache
def _teacher() -> Any:
    return meta.RMD("AttentionPolicy", gym.make("TeachDigits-v0", horizon=4), seed=0)


def _engine_teacher(file: Path, patch: pytest.MonkeyPatch) -> None:
    (file.parent / teachers.RECORD).touch()
    teachers.learned(_teacher(), 8, file.parent)


def _transferred(file: Path, patch: pytest.MonkeyPatch) -> None:
    setting, method = Setting("TeachDigits-v0", {"horizon": 6}), methods.Method(make=lambda *_: _teacher())
    other = file.with_name("other")
    comparison.train(setting, method, Configuration({}), 0, 0, 1, 1, 1, 1, other, source=file.parent)


READERS: dict[str, tuple[str, Callable[[Path, pytest.MonkeyPatch], None]]] = {
    "translation": ("0123456789abcdef.pt", _warm_start),
    "translation-half": ("0123456789abcdef.half", _half_a_warm_start),
    "record": (teachers.RECORD, _record),
    "teacher": (teachers.TEACHER, _engine_teacher),
    "teacher-transferred": (teachers.TEACHER, _transferred),
}


class _Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return Path.touch, (self.flag,)


def _pickled(file: Path, flag: Path) -> None:
    file.write_bytes(pickle.dumps(_Planted(flag)))


def _torch_saved(file: Path, flag: Path) -> None:
    torch.save({"step": _Planted(flag)}, file)


def _cut(file: Path, flag: Path) -> None:
    checkpoints.save(file, {"weights": torch.zeros(100)}, "something else")
    file.write_bytes(file.read_bytes()[:-300])


def _of_another_kind(file: Path, flag: Path) -> None:
    checkpoints.save(file, {"weights": torch.zeros(3)}, "something else")


def _another_zip(file: Path, flag: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", pickle.dumps(_Planted(flag)))


FILES: dict[str, Callable[[Path, Path], Any]] = {
    "pickle": _pickled,
    "torch": _torch_saved,
    "zip": _another_zip,
    "cut": _cut,
    "another kind": _of_another_kind,
    "empty": lambda file, flag: file.write_bytes(b""),
    "garbage": lambda file, flag: file.write_bytes(bytes(range(256)) * 4),
}


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize("kind", READERS)
def test_a_planted_or_damaged_file_runs_nothing_and_is_one_line_that_names_it(
    kind: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read = READERS[kind]
    file, flag = tmp_path / name, tmp_path / "flag"
    FILES[content](file, flag)
    with pytest.raises(ValueError, match=f"^{file} ") as caught:
        read(file, monkeypatch)
    assert "\n" not in str(caught.value)
    assert not flag.exists()


def test_weights_of_another_network_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "start.pt"
    network = torch.nn.Linear(3, 2).state_dict()
    checkpoints.save(file, {"length": 4, "words": 9, "network": network}, translation._START)
    with pytest.raises(ValueError, match=f"^{file} does not fit .* remove it") as caught:
        translation.Started("lstm-1", 0.0, file)()
    assert "\n" not in str(caught.value)
