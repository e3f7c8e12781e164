"""The benchmark of translation: what it trains, writes and takes up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks.l2t_dlf_translation import Options, run, work
from benchmarks.l2t_dlf_translation.main import SIZES, TABLES, Bench
from benchmarks.l2t_dlf_translation.methods import METHODS
from teachenv import checkpoints
from teachenv.experiment import Session, make_backend
from teachenv.experiment.evidence import MOVED, MOVED_MOST, check
from teachenv.experiment.rows import ResultsFile, read_rows
from teachenv.experiment.setting import OneByOne
from teachenv.experiment.teaching import teach
from teachenv.sequence_losses import SequenceLoss
from teachenv.tasks.base import VOID

SETTING = SIZES["smoke"].setting


@pytest.fixture(scope="module", autouse=True)
def small(few_test_sentences: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few_test_sentences(patch)
        for name, (kind, options) in work.NETWORKS.items():
            patch.setitem(work.NETWORKS, name, (kind, {**options, "width": 16}))  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    work.warm_up(SETTING, 0, folder)
    assert [file.name for file in folder.iterdir()] == [work.START]
    return folder / work.START


def test_rows_table_and_figures(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run(Options(preset="smoke", out=tmp_path, backend="inline"))
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.method for row in rows} == set(SIZES["smoke"].methods or ())
    scores = {"dev_bleu", "test_bleu", "test_bleu_beam", "test_token_accuracy"}
    assert {row.metric for row in rows} == scores | {MOVED, MOVED_MOST}
    assert {row.method for row in rows if row.metric == MOVED} == {"l2t-dlf"}
    assert all("version" in row.versions["bleu"] for row in rows)
    table = (tmp_path / "table.md").read_text()
    assert "28.12" not in table
    assert "27.53" in table
    assert "change by the teacher" in table
    check("l2t_dlf_translation", tmp_path, TABLES)
    assert "Coefficients of tokens under l2t-dlf" in table
    assert {p.name for p in tmp_path.glob("*.png")} == {"bleu.png", "coefficients.png"}
    # Warm starts stay, for more methods.
    assert [file.name for file in (tmp_path / "checkpoints").glob("*/*")] == [work.START]
    (taught,) = [row.data for row in rows if row.data is not None]
    assert [len(largest) for _, largest, _ in taught["tokens"]] == [10, 10]
    json.dumps(taught)
    before = (tmp_path / "results.jsonl").read_bytes()
    request.getfixturevalue("undrawn")
    run(Options(preset="smoke", out=tmp_path, backend="inline"))
    assert (tmp_path / "results.jsonl").read_bytes() == before


class OfTokens(SequenceLoss):
    """The cross-entropy of each next word, which environments train with."""

    def __call__(self, model: Any, inputs: torch.Tensor, targets: torch.Tensor, generator: Any) -> torch.Tensor:
        return F.cross_entropy(model(inputs), targets, ignore_index=VOID)


def test_losses_of_translations_train_as_the_environment_does(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cross-entropy for a loss they are one training."""
    monkeypatch.setattr(work, "_sequence_loss", lambda *_: OfTokens())
    method = METHODS["cross-entropy"]
    env = SETTING.after(start, method, 1e-2)
    env.reset(seed=3)
    found = dict(work._by_sequences(SETTING, env, method, 1e-2, start, 3).named_parameters())
    before = {name: tensor.clone() for name, tensor in env.student.parameters.items()}
    teach(OneByOne(env), None, 3)
    assert env.student.step == SETTING.steps
    for name, expected in env.student.parameters.items():
        # A step of Adam is 0.01 long, also where a gradient is as small as its rounding.
        torch.testing.assert_close(found[name].detach(), expected, rtol=0, atol=2e-4)
        assert not torch.equal(expected, before[name])


def test_a_warm_start_that_stopped_goes_on(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_KEPT_EVERY", 3)
    save = checkpoints.save

    def stopped(file: Path, *args: Any) -> None:
        if file.name == work.START:
            raise KeyboardInterrupt
        save(file, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            work.warm_up(SETTING, 0, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["half"]
    work.warm_up(SETTING, 0, tmp_path)
    found, expected = (checkpoints.load(p, work._START)["network"] for p in (tmp_path / work.START, start))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("student", ["lstm-2", "transformer-2"])
def test_students_begin_as_their_warm_start_ended(student: str, tmp_path: Path) -> None:
    setting = replace(SETTING, student=student, warm_steps=1)
    work.warm_up(setting, 0, tmp_path)
    env = setting.after(tmp_path / work.START, METHODS["cross-entropy"], 1e-3)
    env.reset(seed=work.START_SEED)
    kept = checkpoints.load(tmp_path / work.START, work._START)["network"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in env.student.parameters.items())
    # And a network that was trained outside of the environment is measured as it is.
    before = env.evaluate("dev")
    work._put_into(env, work.Started(student, 0.0, tmp_path / work.START)())
    assert env.evaluate("dev") == before


def test_every_sequence_loss_is_made(start: Path) -> None:
    for name, method in METHODS.items():
        if method.sequence is not None:
            env = SETTING.after(start, method, 1e-3)
            env.reset(seed=0)
            model = work.Started(SETTING.student, 0.0, start)()
            inputs, targets = env.dynamics.minibatch(env.episode, 0)
            loss = work._sequence_loss(SETTING, env, method, model)
            assert loss(model, inputs, targets, torch.Generator().manual_seed(0)).isfinite(), name


def test_sgd_has_rates_of_its_own_and_the_papers_optimiser(start: Path, tmp_path: Path) -> None:
    size = SIZES["laptop"]
    settings = {name: replace(size.setting, student=name) for name in work.NETWORKS}
    bench = Bench(settings, ("lstm-1",), {"lstm-1": ("l2t-dlf:sgd",)}, size.rates, 1, "multi30k")
    session = Session(ResultsFile(tmp_path / "results.jsonl"), make_backend("inline"))
    tuned = [(case.method, case.config["rate"]) for case in bench.tuning(session) if case.config["stage"] == "tuning"]
    assert tuned == [("cross-entropy:sgd", 0.1), ("cross-entropy:sgd", 1.4)]
    settings_of = SETTING.after(start, METHODS["l2t-dlf:sgd"], 0.1).problem.settings
    assert (settings_of.optimizer, settings_of.momentum, settings_of.lr_schedule) == ("sgd", 0.0, "constant")


def test_untaught_lines_of_taught_ones_have_their_loss_and_rates() -> None:
    for name, method in METHODS.items():
        assert (method.teacher is None) == (method.untaught is None), name
        if method.untaught is not None:
            untaught = METHODS[method.untaught]
            assert untaught.environment == method.environment
            assert (untaught.tuned_as or method.untaught) == method.tuned_as
    for size in SIZES.values():
        for few in size.few.values():
            assert {METHODS[name].untaught for name in few} - {None} <= {*few} <= METHODS.keys()


def test_unknown_names_are_said() -> None:
    with pytest.raises(ValueError, match="lstm-1"):
        Options(students=("lstm-3",))
    with pytest.raises(ValueError, match="softmax-margin"):
        Options(methods=("softmax-margins",))
