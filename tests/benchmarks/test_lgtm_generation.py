"""The distillation of translation: its data, lines and tuning, and what its report says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.__main__ import main as command_line
from benchmarks.lgtm import work
from benchmarks.lgtm.rates import untaught
from benchmarks.lgtm_generation import Options, report
from benchmarks.lgtm_generation.lines import SHARE, TAUGHT, UNTAUGHT, Choice, Grid, lines, tuned_as
from benchmarks.lgtm_generation.main import SIZES, _study
from meta.distillation import LGTM
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID

TINY = SIZES["smoke"].setting
LINES = lines(5e-4)


def test_lines_of_lgtm_differ_from_one_in_influence_alone() -> None:
    for name, line in LINES.items():
        baseline = untaught(name)
        assert (baseline is None) == (line.distiller != "lgtm")
        if baseline is not None:
            assert replace(line, distiller="prokt", options={}) == LINES[baseline]
    assert LINES["kd:mixed-12.5"] == replace(LINES["kd"], mixed=SHARE)
    for size in SIZES.values():
        assert size.setting.feedback_size / (size.setting.feedback_size + size.setting.train_size) == SHARE
        assert set(size.methods or ()) <= set(LINES)


def test_all_lines_choose_from_as_much() -> None:
    taken = tuned_as(list(LINES))
    assert taken["prokt:mixed-12.5"] == taken["prokt:untrained"] == taken["lgtm:released"] == UNTAUGHT
    for size in SIZES.values():
        grids = {name: size.grid(size.setting, taken.get(name, name)) for name in LINES}
        assert len({len(grid) for grid in grids.values()}) == 1
        for name, grid in grids.items():
            for choice in grid:
                setting, method = choice.applied(size.setting, LINES[name])
                assert setting == replace(size.setting, student_rate=choice.student_rate)
                assert {**method.settings, **method.options}[choice.option] == choice.value


def test_sentences_are_drawn_apart() -> None:
    parts, again, other = TINY.parts(3), TINY.parts(3), TINY.parts(4)
    assert torch.equal(parts.train.inputs, again.train.inputs)
    assert not torch.equal(parts.train.inputs, other.train.inputs)
    drawn = torch.cat([part.inputs for part in (parts.train, parts.feedback, parts.dev)])
    assert len(torch.unique(drawn, dim=0)) == len(drawn) == 56 + 8 + 8
    with pytest.raises(ValueError, match="take smaller sizes"):
        replace(TINY, train_size=10**6).parts(0)


def test_a_split_is_measured_token_by_token() -> None:
    parts = TINY.parts(0)
    torch.manual_seed(0)
    model = TINY.network(TINY.size, parts.classes)
    assert isinstance(model, Translator)
    found = TINY.evaluate(model, parts.dev, parts.dev.labels, parts)
    with torch.no_grad():
        logits = model(parts.dev.inputs)
    losses = F.cross_entropy(logits, parts.dev.labels, ignore_index=VOID, reduction="none")
    known = parts.dev.labels != VOID
    assert found.loss == pytest.approx(float(losses[known].mean()), rel=1e-5)
    entropies = torch.distributions.Categorical(logits=logits.movedim(1, -1)).entropy()
    assert found.entropy == pytest.approx(float(entropies[known].mean()), rel=1e-5)
    assert found.predictions[0] == pytest.approx(float(torch.exp(-losses[0, known[0]].mean())), abs=1e-4)
    right = parts.dev.labels.where(known, 0).numpy()
    assert parts.scores(right, parts.dev.labels.numpy()) == {"bleu": pytest.approx(1)}


def test_minibatches_are_of_sentences_of_one_length_and_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(LGTM, "step", lambda self, batch, feedback: seen.append((batch, feedback)) or {})
    parts, (used, method) = TINY.parts(0), Choice(1e-3, "influence_rate", 1.0).applied(TINY, LINES[TAUGHT])
    networks = [used.network(size, parts.classes) for size in (None, used.size)]
    settings = work.DistillationSettings(7)
    run = work._Run(used, method, method.build(*networks, settings, []), parts, 0)
    for number in range(7):
        run.step(number)
    for batch, feedback in seen:
        assert batch.labels.shape[0] == feedback.labels.shape[0] == 8
        assert batch.labels.shape[1] == max(used.lengths(batch))
    assert min(batch.labels.shape[1] for batch, _ in seen) < parts.train.labels.shape[1]
    spreads = [max(used.lengths(batch)) - min(used.lengths(batch)) for batch, _ in seen]
    assert sum(spreads) < 7 * (max(used.lengths(parts.train)) - min(used.lengths(parts.train))) / 2


def test_lines_are_tuned_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, names = SIZES["smoke"], (UNTAUGHT, "lgtm:released")
    grid = Grid((1e-3, 4e-3), size.grid.values)
    monkeypatch.setitem(SIZES, "smoke", size._replace(grid=grid, methods=names, tuning_part=0.5))
    command = ["lgtm_generation", "--preset", "smoke", "--backend", "inline", "--out", str(tmp_path)]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    tunings = [row for row in rows if row.config["stage"] == "tuning"]
    assert [(row.method, row.metric, row.student_steps) for row in tunings] == [(UNTAUGHT, "dev_bleu", 4)] * 2
    tests = {row.method: row for row in rows if row.metric == "test_bleu"}
    assert {name: row.student_steps for name, row in tests.items()} == dict.fromkeys(names, 7)
    assert all(0 <= row.value < 1 and row.dataset == "numbers" for row in tests.values())
    assert tests["lgtm:released"].config["tuned"] == tests[UNTAUGHT].config["tuned"]
    assert all(n["influence_ratio"] > 0 for _, n in tests["lgtm:released"].data["logged"])
    for name in ("bleu", "loss"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert command_line([*command, "--check"]) == 0
    # The other student has rows of its own, which this one's table does not take for the same.
    other = _study(Options("smoke", student="transformer-1"), "transformer-1")
    assert other.shown(rows) == []


def test_the_table_pairs_seeds() -> None:
    def row(method: str, seed: int, metric: str, value: float, option: str) -> Row:
        data = {
            "logged": [(1, {"influence_ratio": 0.5} if method == TAUGHT else {})],
            "measured": [(1, 3.0, 1.0, 1.0, 1.0), (2, 2.5, 1.0, 1.0, 1.0)],
            "curve": [(1, 0.1, 0.2), (2, 0.1, 0.25)],
        }
        config = {"tuned": {"student_rate": 2e-3, "option": option, "value": 0.1}}
        return Row("lgtm_generation", "t", "d", "s", method, seed, metric, value, 10, 1.0, config, "0" * 40, {}, data)

    rows = []
    for seed in range(3):
        lines_of_table = (UNTAUGHT, 0.10 + 0.01 * seed, "teacher_rate"), (TAUGHT, 0.12 + 0.02 * seed, "influence_rate")
        for method, value, option in lines_of_table:
            rows += [row(method, seed, metric, value, option) for metric in ("dev_bleu", "test_bleu")]
    table = report.make(rows).table()
    assert "| prokt | 11.00 [10.00, 12.00] |" in table
    assert "| +3.00 [+0.52, +5.48] | +3.00 [+0.52, +5.48] | 50 | 2.500 → 2.500 | 20.0 → 25.0 | rate 0.002, " in table
    assert "influence rate 0.1 | 3 |" in table
    assert report.make(rows).unproven == []


@pytest.mark.parametrize(("wrong", "message"), [({"methods": ("lgmt",)}, "lgmt"), ({"workers": 0}, "workers")])
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options("smoke", **wrong)
