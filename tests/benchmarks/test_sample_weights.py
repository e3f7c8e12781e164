"""The sample-weights benchmark: from its problems to its table."""

from pathlib import Path

import pytest

from benchmarks import sample_weights
from benchmarks.sample_weights import METHODS, PROBLEMS, SIZES, Options
from teachenv.experiment.rows import read_rows
from teachenv.experiment.weighing import AUC, RMS


def test_a_problem_goes_from_tuning_to_the_table(undrawn: None, tmp_path: Path) -> None:
    run = ("cross-entropy", "l2rw", "rmd", "dev only")
    options = Options("smoke", problems=("pair-40",), methods=run, backend="inline", out=tmp_path)
    sample_weights.run(options)
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.task for row in rows} == {"digits-dev-100-noisy-40"}
    assert {row.method for row in rows if row.metric == "dev_accuracy"} == {*run}
    assert {row.method for row in rows if row.metric == "test_error"} == {*run}
    for metric in (RMS, AUC):
        measured = {row.method: row.value for row in rows if row.metric == metric}
        assert {*measured} == {"l2rw", "rmd"}
        assert all(value > 0 for value in measured.values())
    table = (tmp_path / "table.md").read_text()
    assert "| ROC AUC for wrong labels | rms of w − 1 |" in table
    assert all(f"| {method} " in table for method in run)
    # What is done is not done again.
    before = (tmp_path / "results.jsonl").read_bytes()
    sample_weights.run(options)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_methods_on_a_trusted_dev_set_are_for_problems_that_have_one(undrawn: None, tmp_path: Path) -> None:
    problems = ("imbalance-50", "pair-40-noisy-dev")
    run = ("class-balanced", "train + dev")
    sample_weights.run(Options("smoke", problems=problems, methods=run, backend="inline", out=tmp_path))
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(row.task, row.method) for row in rows} == {
        ("digits-dev-100-imbalanced-50", "class-balanced"),
        ("digits-dev-100-imbalanced-50", "train + dev"),
        ("digits-noisy-40", "class-balanced"),
    }


def test_every_method_is_tuned_over_as_many_configurations() -> None:
    assert {len(method.candidates) for method in METHODS.values()} == {4}
    for sizes in SIZES.values():
        for size in sizes:
            assert size.rungs[0].configurations == size.candidates * len(size.rates)


def test_larger_presets_have_every_problem() -> None:
    for preset in ("laptop", "paper"):
        digits = [name for size in SIZES[preset] if size.env == "TeachDigits-v0" for name in size.problems]
        assert sorted(digits) == sorted(PROBLEMS)


def test_a_problem_that_the_preset_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset smoke has none of the problems symmetric-20"):
        sample_weights.run(Options("smoke", problems=("symmetric-20",), out=tmp_path))
    with pytest.raises(ValueError, match="did you mean 'pair-40'"):
        Options(problems=("pair-04",))
