"""One problem with any number of coordinates, and the benchmark that counts steps on it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import meta
from benchmarks.rl_and_gradient import main, report
from benchmarks.rl_and_gradient.main import METHODS, PLACES, SIZES, Options
from benchmarks.rl_and_gradient.report import gained, reached, where
from benchmarks.rl_and_gradient.spread import SpreadCredit
from teachenv import TeachEnv
from teachenv.experiment.evidence import check
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.experiment.tables import grouped
from teachenv.losses import Bilinear
from teachenv.students.prediction import Prediction

EXACT = {"horizon": 6, "steps_per_action": 3, "batch_size": 8, "dev_size": 40, "dtype": "float64"}


def test_the_loss_is_bilinear_with_credit_for_the_class_before() -> None:
    outputs, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    for n in (1, 4, 5):
        loss = SpreadCredit(n, scale=0.3)
        action = torch.rand(n, dtype=torch.float64)
        u = float((action * loss.right()).mean())
        log_p = torch.log_softmax(outputs, 1)
        right, before = (log_p.gather(1, of[:, None]).squeeze(1) for of in (labels, (labels - 1) % 4))
        expected = -((1 - 0.3 * u) * right + 0.3 * u * before).mean()
        assert float(loss(action, Prediction(outputs), labels)) == pytest.approx(float(expected))
        neutral = loss(torch.zeros(n, dtype=torch.float64), Prediction(outputs), labels)
        assert torch.equal(neutral, Bilinear()(torch.zeros(16, dtype=torch.float64), Prediction(outputs), labels))


def returned(coordinates: int, u: np.ndarray) -> tuple[float, np.ndarray]:
    loss = SpreadCredit(coordinates)
    env = meta.ActionGradient(TeachEnv(loss=loss, **EXACT))
    env.reset(seed=0)
    for one in u:
        _, _, _, _, info = env.step(one * loss.right().numpy())
    return float(info["objective"]), info["action_gradient"] * loss.right().numpy()


def test_what_can_be_gained_is_the_same_with_any_number_of_coordinates() -> None:
    u = np.array([0.7, -0.2])
    objective, gradient = returned(1, u)
    for n in (7, 100):
        same, spread = returned(n, u)
        assert same == pytest.approx(objective, rel=1e-12)
        np.testing.assert_allclose(spread, np.repeat(gradient, n, 1) / n, rtol=1e-8)


def test_teachers_are_compared_from_smoothness_to_the_table(undrawn: None, tmp_path: Path) -> None:
    run = ("untaught", "known", "rmd")
    main.run(Options("smoke", methods=run, backend="inline", out=tmp_path))
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.method for row in rows} == {*run, "smoothness"}
    table = (tmp_path / "table.md").read_text()
    assert "| untaught | " in table
    assert "| n4-T10 | " in table
    assert report.make(rows, METHODS, 1).unproven == []
    check("rl_and_gradient", tmp_path, main.TABLES)


def row(method: str, value: float, steps: int, seed: int = 0) -> Row:
    named = {"benchmark": "rl_and_gradient", "task": "n4-T10", "dataset": "digits", "student": "mlp"}
    return Row(
        **named,
        method=method,
        seed=seed,
        metric="dev_objective",
        value=value,
        student_steps=steps,
        seconds=1.0,
        config={},
        git_commit="",
        versions={},
    )


def test_a_teacher_is_there_when_half_of_the_gain_is_seen() -> None:
    rows = [row("untaught", 0.5, 0), row("known", 0.7, 0)]
    rows += [row("rmd", value, steps) for value, steps in ((0.5, 0), (0.61, 100), (0.55, 200), (0.65, 300))]
    rows += [row("rmd", value, steps, seed=1) for value, steps in ((0.5, 0), (0.59, 300))]
    groups = {group.name: group for group in grouped(rows)}
    assert reached(groups["rmd"]) == [100, None]
    assert reached(groups["known"]) == []
    assert gained(groups["rmd"]) == pytest.approx(0.6)
    assert gained(groups["known"]) == pytest.approx(1.0)
    assert gained(grouped(rows[2:])[0]) is None


def test_places_are_named_as_they_are_read() -> None:
    for name, place in PLACES.items():
        assert where(name) == tuple(place)
    for size in SIZES.values():
        assert {*size.places} <= {*PLACES}
        assert {PLACES[name].horizon for name in size.places} <= {*size.trainings}
    with pytest.raises(ValueError, match="preset smoke has no training runs as long as those of n10-T100"):
        main.run(Options("smoke", places=("n10-T100",)))
