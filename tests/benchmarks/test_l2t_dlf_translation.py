"""The benchmark of translation: what it trains, writes and takes up again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoints import ending
from benchmarks.l2t_dlf_translation import Options, run, work
from benchmarks.l2t_dlf_translation.main import SIZES
from benchmarks.l2t_dlf_translation.methods import METHODS
from teachenv import checkpoints
from teachenv.experiment.rows import read_rows
from teachenv.sequence_losses import TokenLoss

SETTING = SIZES["smoke"].setting


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "start.pt"
    work.warm_up(SETTING, 0, path)
    return path


def test_rows_table_and_figures(tmp_path: Path) -> None:
    run(Options(preset="smoke", out=tmp_path, workers=1))
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.method for row in rows} == set(SIZES["smoke"].methods or ())
    assert {row.metric for row in rows} == {"dev_bleu", "test_bleu", "test_bleu_beam", "test_token_accuracy"}
    assert all("version" in row.versions["bleu"] for row in rows)
    table = (tmp_path / "table.md").read_text()
    assert "28.12" not in table
    assert "27.53" in table
    assert "Coefficients of tokens under l2t-dlf" in table
    assert {p.name for p in tmp_path.glob("*.png")} == {"bleu.png", "coefficients.png"}
    assert not list((tmp_path / "checkpoints").glob("*.zip"))
    assert not list((tmp_path / "checkpoints").glob("*.half"))
    (taught,) = [row.data for row in rows if row.data is not None]
    assert [len(largest) for _, largest, _ in taught["tokens"]] == [10, 10]
    json.dumps(taught)
    before = (tmp_path / "results.jsonl").read_bytes()
    run(Options(preset="smoke", out=tmp_path, workers=1))
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_losses_of_translations_train_as_the_environment_does(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cross-entropy for a loss they are one training."""
    monkeypatch.setattr(work, "_sequence_loss", lambda *_: TokenLoss())
    method = METHODS["cross-entropy"]
    env = SETTING.after(start, method, 1e-2)
    env.reset(seed=3)
    found = dict(work._by_sequences(SETTING, env, method, 1e-2, start, 3).named_parameters())
    before = {name: tensor.clone() for name, tensor in env.student.parameters.items()}
    work._follow(env, None)
    assert env.student.step == SETTING.steps
    for name, expected in env.student.parameters.items():
        # A step of Adam is 0.01 long, also where a gradient is as small as its rounding.
        torch.testing.assert_close(found[name].detach(), expected, rtol=0, atol=2e-4)
        assert not torch.equal(expected, before[name])


def test_a_warm_start_that_stopped_goes_on(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_KEPT_EVERY", 2)
    scored = work._scores

    def stopped(*args: object, **kwargs: object) -> dict[str, float]:
        raise KeyboardInterrupt

    path = tmp_path / "again.pt"
    monkeypatch.setattr(work, "_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        work.warm_up(SETTING, 0, path)
    assert ending(path, "half").exists()
    assert not path.exists()
    monkeypatch.setattr(work, "_scores", scored)
    work.warm_up(SETTING, 0, path)
    found, expected = (checkpoints.load(p, work._START)["network"] for p in (path, start))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("student", ["lstm-2", "transformer-2"])
def test_students_begin_as_their_warm_start_ended(student: str, tmp_path: Path) -> None:
    setting = replace(SETTING, student=student, warm_steps=1)
    scores = work.warm_up(setting, 0, tmp_path / "start.pt")
    env = setting.after(tmp_path / "start.pt", METHODS["cross-entropy"], 1e-3)
    env.reset(seed=work.START_SEED)
    with env.dynamics.student.held(env.student.parameters, env.student.buffers) as model:
        assert work._scores(env, model, test=False) == scores


def test_every_sequence_loss_is_made(start: Path) -> None:
    for name, method in METHODS.items():
        if method.sequence is not None:
            env = SETTING.after(start, method, 1e-3)
            env.reset(seed=0)
            model = work.Started(SETTING.student, 0.0, start)()
            inputs, targets = env.dynamics.minibatch(env.episode, 0)
            loss = work._sequence_loss(SETTING, env, method, model)
            assert loss(model, inputs, targets, torch.Generator().manual_seed(0)).isfinite(), name


def test_unknown_names_are_said() -> None:
    with pytest.raises(ValueError, match="lstm-1"):
        Options(students=("lstm-3",))
    with pytest.raises(ValueError, match="softmax-margin"):
        Options(methods=("softmax-margins",))
