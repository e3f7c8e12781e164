"""The precision of networks is the machine's, and no part of what a row is known by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.l2t_dlf_images import Options, main
from teachenv.experiment import precision
from teachenv.experiment.contest import Effort, Rung
from teachenv.experiment.rows import read_rows

OPTIONS = {"horizon": 4, "steps_per_action": 2, "dev_size": 100, "batch_size": 8, "autocast": "bfloat16"}


def able(patch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False), ({}, False)],
)
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    able(monkeypatch, **capabilities)
    assert precision.has_bfloat16("cpu") is precision.has_bfloat16() is fast
    options = precision.on_this_machine({"horizon": 1, "autocast": "bfloat16"})
    assert options == ({"horizon": 1, "autocast": "bfloat16"} if fast else {"horizon": 1})
    assert precision.precision(options) == {"precision": "bfloat16" if fast else "float32"}


def test_a_torch_that_cannot_tell_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not precision.has_bfloat16()


def test_a_run_goes_on_in_another_precision(undrawn: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    effort = Effort(student_steps=4, parallel=1, rungs=(Rung(1, 4, 1, 1),), points=1, students=1, final_students=1)
    parts = {"mnist-mlp": main.Part(1, "TeachDigits-v0", OPTIONS, effort, ("cross-entropy",))}
    monkeypatch.setitem(main.PRESETS, "smoke", parts)
    options = Options(preset="smoke", out=tmp_path, backend="inline", seeds=1)
    able(monkeypatch, amx_bf16=True)
    main.run(options)
    rows = read_rows(tmp_path / "results.jsonl")
    assert {r.versions["precision"] for r in rows} == {"bfloat16"}
    assert not any("autocast" in r.config["options"] for r in rows)
    assert "networks in bfloat16" in (tmp_path / "table.md").read_text()

    able(monkeypatch)
    main.run(options)
    assert read_rows(tmp_path / "results.jsonl") == rows
    main.run(Options(preset="smoke", out=tmp_path, backend="inline", seeds=2))
    added = read_rows(tmp_path / "results.jsonl")[len(rows) :]
    assert {(r.seed, r.versions["precision"]) for r in added} == {(1, "float32")}
    assert "networks in bfloat16 or float32" in (tmp_path / "table.md").read_text()
