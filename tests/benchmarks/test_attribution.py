"""Data attribution is scored by retraining, beside peers that need not be installed."""

import dataclasses

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits

from benchmarks.__main__ import main as command_line
from benchmarks.attribution import labels, settings, trainings
from benchmarks.attribution.measure import lds
from benchmarks.attribution.methods import METHODS, Method
from benchmarks.attribution.settings import SETTINGS, Setting
from benchmarks.attribution.trainings import LeftOut, retrained
from teachenv.experiment.rows import read_rows

TINY = {"task": "digits", "pool_size": 60, "horizon": 6, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.0}
SETTING = Setting("mlp", TINY, 2, 4, 2, 1, 1, ("attribute", "attribute:averaged", "dattri:trak"))


def test_the_score_of_a_linear_training_is_one():
    rng = np.random.default_rng(0)
    values, left_out = rng.normal(size=(3, 40)), rng.random((20, 40)) < 0.2
    losses = 5.0 - left_out @ values.T
    assert lds(values, left_out, losses) == pytest.approx(1)
    assert lds(-values, left_out, losses) == pytest.approx(-1)
    assert lds(values, left_out, np.exp(losses)) == pytest.approx(1)  # ranks alone count
    # Of three tests, one that is the same whatever is left out says nothing.
    assert lds(values * [[1], [1], [0]], left_out, losses) == pytest.approx(2 / 3)


@pytest.mark.parametrize("percent", [5, 50])
def test_trainings_go_without_so_many_samples(percent, tmp_path):
    retrained(SETTING, LeftOut(percent), 0, None, tmp_path)
    found = np.load(tmp_path / trainings.RETRAINED)
    assert found["left_out"].sum(1).tolist() == [60 * percent // 100] * 4
    assert len(np.unique(found["left_out"], axis=0)) == 4
    # The weights 0 are those of the environment's own step.
    env = SETTING.make(None)
    env.reset(seed=0)
    env.step(-found["left_out"][2].astype(np.float32))
    inputs, targets = SETTING.tests_of(env)
    expected = settings.loss_of_each(env.predict(inputs)[None], targets)[0]
    np.testing.assert_allclose(found["losses"][2], expected, rtol=1e-4)


def test_the_command_scores_methods_and_takes_up_where_it_stopped(undrawn, monkeypatch, tmp_path, capsys):
    def absent(trained):
        import no_such_library  # noqa: F401

    monkeypatch.setitem(METHODS, "dattri:trak", Method(absent, 10))
    monkeypatch.setitem(SETTINGS, "smoke", {"digits": SETTING})
    monkeypatch.setitem(labels.SIZES, "smoke", {"digits": labels.Size(40, 1, {"repeats": 1, "rounds": 1, "steps": 4})})
    for name in ("cleanlab:same-network", "cleanlab:logistic-regression"):
        monkeypatch.setitem(labels.METHODS, name, absent)
    command = ["attribution", "--preset", "smoke", "--settings", "digits", "--out", str(tmp_path)]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    scores = {(row.method, row.metric): row.value for row in rows}
    assert scores["attribute", "lds_1"] > 0.9
    assert scores["attribute", "time_ratio"] > 1
    assert {metric for method, metric in scores if method == "attribute:averaged"} == {
        *(share.metric for share in trainings.SHARES),
        *("time_ratio", "time_ratio_one"),
    }
    table = (tmp_path / "table.md").read_text()
    assert table.count("not installed: no_such_library |") == 7
    assert "| attribute, mean of 2 other training runs |" in table
    assert "traker" not in capsys.readouterr().out  # which the setting does not have
    # What failed is tried again, and nothing else is.
    monkeypatch.setitem(METHODS, "dattri:trak", dataclasses.replace(METHODS["attribute"], trainings=10))
    monkeypatch.setitem(METHODS, "attribute", Method(absent, 0))
    assert command_line(command) == 0
    again = read_rows(tmp_path / "results.jsonl")
    assert again[: len(rows)] == rows
    assert {row.method for row in again[len(rows) :]} == {
        "dattri:trak",
        "cleanlab:same-network",
        "cleanlab:logistic-regression",
    }
    assert (tmp_path / "table.md").read_text().count("not installed") == 6


@pytest.mark.parametrize("noise", labels.NOISES, ids=lambda noise: noise.name)
def test_rankings_are_compared_with_the_labels_that_are_wrong(noise, monkeypatch, tmp_path):
    seen = []

    def right(data):
        seen.append(data)
        return [data.wrong.astype(float)]

    monkeypatch.setitem(labels.METHODS, "right", right)
    monkeypatch.setitem(labels.METHODS, "opposite", lambda data: [-right(data)[0]])
    size = labels.Size(300, 1)
    values = {
        name: labels.measured(name, "digits", noise, size, 0, None, tmp_path).values for name in ("right", "opposite")
    }
    assert values["right"] == {
        "auc": 1,
        "precision_at_wrong": 1,
        "precision_at_100": pytest.approx(min(1, 3 * noise.rate)),
    }
    assert values["opposite"] == {"auc": 0, "precision_at_wrong": 0, "precision_at_100": 0}
    data = seen[0]
    assert data.wrong.sum() == pytest.approx(300 * noise.rate, abs=1)
    assert noise.trusted == (0 if data.trusted is None else len(data.trusted[1]))


def test_the_estimator_is_a_classifier_of_scikit_learn():
    inputs, targets = load_digits(return_X_y=True)
    student = clone(labels.Student(steps=100, seed=3))
    assert student.fit(inputs[:800] / 16, targets[:800]).score(inputs[800:] / 16, targets[800:]) > 0.8
    np.testing.assert_allclose(student.predict_proba(inputs[800:810]).sum(1), 1, rtol=1e-5)
