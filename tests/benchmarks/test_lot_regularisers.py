"""Learning from teaching beside other regularisers: tuned alike, and what the tables say of whether it taught."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks.__main__ import main as command_line
from benchmarks.lot import report
from benchmarks.lot.methods import LOT, Method
from benchmarks.lot.regularisers import Comparison, Configuration, Regime, applied, regularisers
from benchmarks.lot.work import Run
from benchmarks.lot_images import main as images_main
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.lot_language.problem import LanguageProblem
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.tasks import synthetic

IMAGES = ImageProblem(
    "synthetic", "cnn", task_options={"pool_size": 80}, batch_size=16, epochs=2, learning_rate=0.05, weight_decay=0.0
)
TEXT = LanguageProblem(
    "numbers", "lstm", {"width": 16, "dropout": 0.2}, batch_size=8, bptt=10, train_size=800, epochs=2,
    learning_rate=5.0,
)  # fmt: skip
COMPARED = regularisers(None, (1, 2, 5))


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of test is measured again and again."""
    monkeypatch.setattr(synthetic, "make_synthetic", functools.partial(synthetic.make_synthetic, test_size=12))


@pytest.mark.parametrize("name", COMPARED)
def test_a_strength_is_that_of_what_it_is_called(name: str) -> None:
    """The weakest and the strongest differ in one option, and in none without a strength."""
    regulariser = COMPARED[name]
    strengths = (regulariser.strengths[0], regulariser.strengths[-1]) if regulariser.strengths else (None, None)
    for problem in (IMAGES, TEXT):
        described = []
        for strength in strengths:
            changed, method = applied(problem, regulariser, Configuration("adam", 0.01, strength))
            assert (changed.optimizer_name, changed.learning_rate) == ("adam", 0.01)
            described.append({**changed.config, **vars(method), **changed.config.get("options", {})})
        different = {key for key in described[0] if described[0][key] != described[1][key]} - {"options"}
        option = {"decay": "weight_decay"}.get(regulariser.option or "", regulariser.option)
        assert different == ({option} if option else set())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_is_the_share_by_which_a_step_shrinks_weights(optimizer: str) -> None:
    problem = IMAGES.changed({"optimizer_name": optimizer, "learning_rate": 0.02, "decay": 1e-3})
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    updates = problem.optimizer(network)
    for _ in range(200):
        network.weight.grad = torch.zeros_like(network.weight)
        updates.step()
    torch.testing.assert_close(network.weight.detach() / before, torch.full((2, 3), 0.999**200), atol=0.01, rtol=0)


def test_each_is_tuned_in_as_many_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation data alone decide, in trainings of other seeds than those that judge; test is not touched by them."""
    calls = []

    def train(problem: Any, method: Method, seed: int, folder: Path, *, test: bool) -> Any:
        from teachenv.experiment.cases import Outcome

        calls.append((problem, method, seed, test))
        # The best are the largest rate of SGD and the weakest strength.
        strengths = method.alpha * bool(method.students), method.label_smoothing, method.average
        value = problem.learning_rate * (problem.optimizer_name == "sgd") - 1e-6 * sum(strengths)
        value -= 1e-3 * problem.weight_decay + 1e-6 * problem.dropout
        values = {"valid_accuracy": value} | ({"test_accuracy": 0.5, "last_test_accuracy": 0.5} if test else {})
        return Outcome(values=values, student_steps=1, seconds=1.0, data={"curve": [], "teacher_steps": 1})

    monkeypatch.setattr("benchmarks.lot.work.train", train)
    regime = Regime(IMAGES, {"adam": (0.1, 0.2, 0.3), "sgd": (0.01, 0.02, 0.03)}, 3)
    comparison = Comparison("lot_images", {"few": regime}, COMPARED, None, None)
    options = images_main.Options("smoke", backend="inline", out=tmp_path)
    options.execute("lot_images", comparison.stages, lambda rows: report.of_regularisers(rows, "x", list(COMPARED)))
    rows = read_rows(tmp_path / "results.jsonl")
    tuning = [row for row in rows if row.config["stage"] == "tuning"]
    assert Counter(row.method for row in tuning) == dict.fromkeys(COMPARED, 12)
    assert not any(row.metric.endswith("test_accuracy") for row in tuning)
    assert {row.seed for row in tuning}.isdisjoint(range(3))
    trained = {row.method: row.config["tuned"] for row in comparison.shown(rows)}
    assert trained.keys() == COMPARED.keys()
    for name, chosen in trained.items():
        strengths = COMPARED[name].strengths
        rate = 0.03 if strengths else 0.09
        assert chosen == {
            "optimizer_name": "sgd", "learning_rate": pytest.approx(rate), "strength": min(strengths, default=None),
        }  # fmt: skip
    assert len(calls) == len(COMPARED) * (12 + 3)
    assert all(test == (seed < 3) for _, _, seed, test in calls)


def test_smoothed_labels_and_averaged_weights_are_what_they_are_called(tmp_path: Path) -> None:
    run = Run(IMAGES, Method(label_smoothing=0.3, average=0.8), 0)
    inputs, targets = IMAGES.batch(0, 0, for_students=False)
    expected = F.cross_entropy(run.reader(run.model, inputs).logits, targets, label_smoothing=0.3)
    assert run.step(0)["loss"] == pytest.approx(float(expected.detach()))
    average = {name: tensor.clone() for name, tensor in run.shown.state_dict().items()}
    for number in (1, 2):
        run.step(number)
        for name, tensor in run.model.state_dict().items():
            average[name] = 0.8 * average[name] + 0.2 * tensor
    for name, tensor in run.shown.state_dict().items():
        torch.testing.assert_close(tensor, average[name])
    assert not torch.equal(average["0.weight"], run.model.state_dict()["0.weight"])


def test_wrong_labels_are_those_of_training_and_validation() -> None:
    clean, noisy = (IMAGES.changed({"label_noise": share}).data for share in (0.0, 0.4))
    parts = {
        split: float((getattr(clean, split)[1] != getattr(noisy, split)[1]).double().mean())
        for split in ("train", "valid", "test")
    }
    assert parts["train"] == pytest.approx(0.4, abs=0.1)
    assert 0 < parts["valid"] < 1  # of eight images
    assert parts["test"] == 0


def rows_of(method: str, values: list[float], share: float | None) -> list[Row]:
    def row(seed: int, metric: str, value: float) -> Row:
        config = {"tuned": Configuration("adam", 1e-3, 8.0)._asdict(), "tried": {"option": "alpha"}}
        data = {"curve": [[1, value, None]], "teacher_steps": 10}
        return Row(
            "lot_images", "few", "mnist", "net", method, seed, metric, value, 20, 1.0, config, "0" * 40, {}, data
        )  # fmt: skip

    measured = [row(s, metric, v) for s, v in enumerate(values) for metric in ("test_accuracy", "last_test_accuracy")]
    return measured + [row(s, "term_share", share) for s in range(len(values)) if share is not None]


@pytest.mark.parametrize(
    ("values", "share", "name"),
    [
        ([0.51, 0.59, 0.70], 0.001, "lot (untaught)"),
        ([0.51, 0.59, 0.70], 0.05, "lot"),
        ([0.60, 0.70, 0.80], 0.001, "lot"),
        ([0.60], 0.001, "lot (untaught?)"),
    ],
)
def test_a_line_says_whether_its_students_taught(values: list[float], share: float, name: str) -> None:
    """A term of less than a percent of the loss, and no significant difference: untaught."""
    rows = rows_of("teacher-only", [0.5, 0.6, 0.7], None) + rows_of("lot", values, share)
    table = report.of_regularisers(rows, "lot_images", ["teacher-only", "lot"]).table()
    for shown in (table, report.make(rows, "lot_images").table()):
        assert f"| {name} |" in shown
        assert ("is called untaught if" in shown) == ("(untaught)" in name)
        assert "| teacher-only |" in shown
    assert f"| {100 * share:.3g} |" in table
    assert "adam 0.001, alpha 8" in table


def test_the_command_tunes_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"lot": regularisers((4.0,), (1,))["lot"], "teacher-only": regularisers(None, ())["teacher-only"]}
    monkeypatch.setattr(images_main, "_RATES", {"adam": (1e-3,)})
    monkeypatch.setattr(images_main.Options, "compared", lambda self, study: few)
    command = ["lot_images", "--preset", "smoke", "--study", "regularisers", "--train-size", "24", "--label-noise"]
    command += ["0.4", "--backend", "inline", "--out", str(tmp_path), "--methods", "lot", "teacher-only"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.task for row in rows} == {"synthetic-24-symmetric-40"}
    shares = [row.value for row in rows if row.metric == "term_share" and row.method == "lot"]
    assert all(share > 0 for share in shares)
    table = (tmp_path / "regularisers.md").read_text()
    assert "| teacher-only |" in table
    assert "alpha 4" in table
    assert LOT.alpha != 4
    for picture in ("regularisers", "regularisers_last"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label_noise": (0.4, 0.4000000001)},
            r"found --label-noise 0.4 0.4000000001, both of which rows would call 40",
        ),
        ({"alpha": (2.0, 2.0000001)}, r"found --alpha 2.0 2.0000001, both of which rows would call 2"),
        ({"study": ("regularisers",), "methods": ("lot:l2",)}, r"unknown method of --study regularisers 'lot:l2'"),
        ({"study": ("table", "n"), "methods": ("weight-decay",)}, r"unknown method of --study table n 'weight-decay'"),
    ],
)
def test_what_would_be_left_out_without_a_word_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images_main.Options(**options)
