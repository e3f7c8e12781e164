"""The study of the influence term's factor: its lines, their tuning, and what its report says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main as command_line
from benchmarks.lgtm import rates, rates_report, work
from benchmarks.lgtm.images import ImageSetting, noisy_images
from benchmarks.lgtm.main import Options, _rates
from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm.setting import SHOWN
from benchmarks.lgtm.study import TunedStudy
from benchmarks.lgtm.text import TextSetting
from meta.distillation import DistillationSettings
from teachenv import checkpoints
from teachenv.experiment.cases import Case, Outcome, Session
from teachenv.experiment.inline import Inline
from teachenv.experiment.row import Row
from teachenv.experiment.rows import ResultsFile, read_rows

LINES = rates.lines()
TINY = ImageSetting(
    task="digits", epochs=1, batch_size=10, student_rate=3e-3, teacher_rate=3e-3, evaluations=2, watched=0, width=8,
    teacher_width=8, train_size=60, feedback_size=20, dev_size=30, label_noise=0.4, noise_kind="pair",
)  # fmt: skip


def test_the_lines_are_modes_by_factors_with_and_without_feedback_in_minibatches() -> None:
    for mode in ("meta", "released", "reweight"):
        for rate, name in (("teacher", "teacher"), (0.03, "0.03"), (0.1, "0.1"), (0.3, "0.3"), (1.0, "1")):
            line = LINES[f"lgtm:{mode}-{name}"]
            assert (line.options, line.mixed) == ({"mode": mode, "influence_rate": rate}, 0)
            assert LINES[f"lgtm:{mode}-{name}:mixed-25"] == replace(line, mixed=0.25)
    for name in ("cross-entropy", "kd", "prokt"):
        assert [LINES[f"{name}{end}"].mixed for end in ("", ":mixed-25", ":mixed-50")] == [0, 0.25, 0.5]
    assert LINES["kd:teacher-of-feedback"].tuned_on_feedback
    # Each line of LGTM has one beside it that differs in nothing but influence.
    for name, line in LINES.items():
        baseline = rates.untaught(name)
        assert (baseline is None) == (line.distiller != "lgtm")
        if baseline is not None:
            assert replace(line, distiller="prokt", options={}) == LINES[baseline]
    assert {line.settings.get("student_labels") for line in rates.lines(0.3).values()} == {None, 0.3}


def test_images_are_drawn_apart_and_their_labels_are_as_wrong_as_said() -> None:
    parts, again, other = TINY.parts(3), TINY.parts(3), TINY.parts(4)
    clean = replace(TINY, label_noise=0.0).parts(3)
    assert torch.equal(parts.train.labels, again.train.labels)
    assert not torch.equal(parts.train.inputs, other.train.inputs)
    assert float((parts.train.labels != clean.train.labels).double().mean()) == pytest.approx(0.4)
    assert torch.equal(parts.dev.inputs, parts.true_dev.inputs)
    assert float((parts.dev.labels != parts.true_dev.labels).double().mean()) == pytest.approx(0.4)
    assert torch.equal(parts.feedback.labels, clean.feedback.labels)
    drawn = torch.cat([part.inputs for part in (parts.train, parts.feedback, parts.dev)])
    assert len(torch.unique(drawn, dim=0)) == len(drawn) == 110
    assert [setting.name for setting in noisy_images("mnist", None, None, small=False)] == [
        "mnist-symmetric-30",
        "mnist-pair-40",
    ]


def test_minibatches_have_the_share_of_feedback_that_is_asked_for() -> None:
    parts = TINY.parts(0)
    feedback = {tuple(row) for row in parts.feedback.inputs.tolist()}
    seen: list[Any] = []

    class Watched:
        settings = DistillationSettings(6)
        needs_feedback = True

        def prepare(self, data: Any) -> None:
            assert data is parts.train

        def step(self, batch: Any, held_out: Any) -> dict[str, float]:
            seen.append((batch, held_out))
            return {}

    watched: Any = Watched()
    run = work._Run(TINY, Method("prokt", mixed=0.3), watched, parts, 0)
    for number in range(6):
        run.step(number)
    for batch, held_out in seen:
        assert [tuple(row) in feedback for row in batch.inputs.tolist()] == [False] * 7 + [True] * 3
        assert len(batch.labels) == len(held_out.labels) == 10
        assert all(tuple(row) in feedback for row in held_out.inputs.tolist())


def test_a_teacher_of_the_feedback_knows_nothing_else(tmp_path: Path) -> None:
    weights = []
    for number, setting in enumerate((TINY, replace(TINY, label_noise=0.1))):
        folder = tmp_path / str(number)
        folder.mkdir()
        method = Method(ALONE, tuned_on_feedback=True)
        assert work.fine_tune(setting, 0, 1, folder, method, test=False) is None
        weights.append(work._route(folder)[-1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("name", ["cross-entropy", "prokt:student-first", "lgtm:meta-0.3:mixed-25"])
def test_a_training_that_tunes_touches_no_test_and_one_that_judges_keeps_thin_series(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = work.distil(TINY, LINES[name], 0, tmp_path / "tuning", test=False)
    assert (set(tuning.values), tuning.data) == ({"dev_accuracy"}, None)
    data = work.distil(TINY, LINES[name], 0, tmp_path / "training").data
    assert [point[0] for point in data["measured"]] == [3, 6]
    assert all(point[1] > 0 and point[2] > 0 for point in data["measured"])
    assert (data["measured"][0][3] is None) == (name == "cross-entropy")
    assert [len(shown) for shown in data["predictions"]] == [SHOWN] * 2
    assert data["influences"] == []
    assert ("influence_ratio" in data["logged"][0][1]) == name.startswith("lgtm")


def test_each_line_is_tuned_in_six_trainings_on_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distil(setting: ImageSetting, method: Method, seed: int, folder: Path, test: bool, **more: Any) -> Outcome:
        value = setting.student_rate - 0.01 * setting.teacher_rate
        values = {"dev_accuracy": value} | ({"test_accuracy": 0.5} if test else {})
        return Outcome(values=values, student_steps=1, seconds=1.0)

    monkeypatch.setattr(work, "distil", distil)
    monkeypatch.setattr(work, "fine_tune", lambda folder, **_: checkpoints.save(folder / work.TEACHER, [], work._ROUTE))
    names = ("cross-entropy", "kd", "kd:mixed-25", "lgtm:meta-1")
    study = TunedStudy("lgtm", [TINY], LINES, names, {TINY.name: 2}, rates.Grid(LINES, [TINY.name]))
    with ResultsFile(tmp_path / "results.jsonl") as results:
        session = Session(results, Inline())
        for stage in study.stages:
            session.perform(stage(session))
        assert not session.failures
        rows = results.rows()
    tuning = [row for row in rows if row.config["stage"] == "tuning"]
    assert Counter(row.method for row in tuning) == dict.fromkeys(names, 6)
    assert {row.metric for row in tuning} == {"dev_accuracy"}
    assert {row.seed for row in tuning}.isdisjoint(range(2))
    shown = study.shown(rows)
    assert {row.config["stage"] for row in shown} == {"training"}
    assert Counter(row.method for row in shown if row.metric == "test_accuracy") == dict.fromkeys(names, 2)
    chosen = {row.method: row.config["tuned"] for row in shown}
    assert chosen["lgtm:meta-1"] == chosen["kd"] == {"student_rate": 3e-3, "teacher_rate": 1e-3}
    assert chosen["cross-entropy"]["student_rate"] == 8e-3
    assert replace(study, chosen=("kd",)).shown(rows) == shown


def test_teachers_are_shared_by_lines_that_want_the_same() -> None:
    study = TunedStudy("lgtm", [TINY], LINES, None, {TINY.name: 1}, rates.Grid(LINES, []))

    def teacher(name: str, rate: float = 1e-3) -> Case:
        found: Case = study.case(TINY, name, rates.Rates(1e-3, rate), 0).arguments["teacher"]
        return found

    assert teacher("kd").digest == teacher("prokt:fine-tuned").digest
    others = [teacher("kd:mixed-25"), teacher("kd:teacher-of-feedback"), teacher("kd", 3e-3)]
    assert len({case.digest for case in (teacher("kd"), *others)}) == 4


def test_texts_keep_their_rates_and_large_tasks_have_few_of_them() -> None:
    options = Options(study=("rates",), tasks=("sst-2", "mrpc"), label_noise=0.3, checkpoint="an/encoder")
    study = _rates(options)
    assert [setting.name for setting in study.settings] == ["sst-2-symmetric-30", "mrpc-symmetric-30"]
    large, small = study.settings
    assert isinstance(large, TextSetting)
    assert isinstance(small, TextSetting)
    assert (large.data["train_size"], large.data["feedback_size"], large.data["dev_size"]) == (6_000, 600, 600)
    assert small.data["train_size"] is None
    assert study.seeds == {"sst-2-symmetric-30": 5, "mrpc-symmetric-30": 5}
    assert len(study.grid(large, "lgtm:meta-1")) == 1


def test_the_command_makes_table_and_figures_and_checks_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lgtm", "--study", "rates", "--preset", "smoke", "--backend", "inline", "--label-noise", "0.2"]
    command += ["--out", str(tmp_path), "--methods", "prokt", "lgtm:meta-0.3", "--seeds", "2"]
    assert command_line(command) == 0
    for name in ("rates", "rates_on_the_way"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "table.md").exists()  # the other studies' stays as it is
    table = (tmp_path / "rates.md").read_text()
    assert "digits-symmetric-20" in table
    assert "(prokt)" in table  # the best control
    assert command_line([*command, "--check"]) == 0
    # Without the series there is nothing that shows that the teacher taught.
    rows = [replace(row, data=None) for row in read_rows(tmp_path / "rates.jsonl")]
    assert rates_report.make(rows).unproven == ["digits-symmetric-20, perceptrons, 200 to 100 (digits): lgtm:meta-0.3"]
    capsys.readouterr()


def test_a_line_without_an_effect_is_marked() -> None:
    def row(method: str, seed: int, value: float, ratio: float) -> Row:
        measured = [(1, 2.0, 1.0, 1.0, 1.0), (2, 2.5, 1.0, 1.0, 1.0)]
        data = {
            "logged": [(1, {"influence_ratio": ratio} if ratio else {})],
            "measured": measured,
            "predictions": [[0.5]] * 2,
        }
        config = {"tuned": {"student_rate": 1e-3, "teacher_rate": 1e-3}}
        return Row("lgtm", "t", "d", "s", method, seed, "test_accuracy", value, 10, 1.0, config, "0" * 40, {}, data)

    rows = [row("prokt", seed, 0.8 + 0.01 * seed, 0.0) for seed in range(3)]
    rows += [row("lgtm:released-teacher", seed, 0.8 + 0.01 * (2 - seed), 1e-4) for seed in range(3)]
    rows += [row("lgtm:meta-1", seed, 0.9 + 0.01 * seed, 0.5) for seed in range(3)]
    table = rates_report.make(rows).table()
    assert "| lgtm:released-teacher (untaught) |" in table
    assert "| lgtm:meta-1 |" in table
    assert "2.000 → 2.500" in table


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"study": ("table",), "tasks": ("mnist",)}, "task of --study table"),
        ({"study": ("rates",), "methods": ("lgtm:meta-2",)}, "lgtm:meta-2"),
        ({"label_noise": 1.0}, "--label-noise"),
        ({"student_labels": 1.5}, "--student-labels"),
        ({"teacher_rate": 0.0}, "--teacher-rate"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options("smoke", **wrong)
