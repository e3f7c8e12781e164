"""The schedules benchmark: from its tasks to its table and its figures."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import schedules
from benchmarks.schedules import CONTROLS, METHODS, SIZES, Options
from teachenv.experiment.rows import read_rows
from teachenv.schedules import SCHEDULES


def test_a_task_goes_from_tuning_to_the_table(undrawn: None, tmp_path: Path) -> None:
    run = ("one-cycle", "rmd:segments", "bandit")
    options = Options("smoke", tasks=("digits-optimiser",), methods=run, backend="inline", out=tmp_path)
    schedules.run(options)
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(row.task, row.method) for row in rows} == {("digits-optimiser", method) for method in run}
    moved = {row.method: row.value for row in rows if row.metric == "teacher_moved"}
    assert moved["rmd:segments"] > 0.01
    shown = {row.method: row.data["settings"] for row in rows if row.data and "settings" in row.data}
    assert {*shown} == {"rmd:segments", "bandit"}
    assert {*shown["bandit"]} == {"learning_rate", "momentum", "weight_decay"}
    rates = shown["rmd:segments"]["learning_rate"]
    assert len(rates) == 5
    assert rates[0] != 0.1
    assert np.ptp(shown["bandit"]["learning_rate"]) == 0
    # No weights of samples are measured where actions set none.
    assert "weight_rms" not in {row.metric for row in rows}
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {method} " in table for method in run)


def test_every_method_is_tuned_over_as_many_configurations() -> None:
    for sizes in SIZES.values():
        for size in sizes:
            for control in CONTROLS:
                counts = {
                    len(size.tune(method)["learning_rate"]) * len(size.cut(method).candidates)
                    for method in schedules.methods(control, 10).values()
                }
                assert counts == {size.rungs[0].configurations}


def test_every_schedule_of_the_library_is_compared() -> None:
    assert METHODS[: len(SCHEDULES)] == SCHEDULES


def test_a_task_that_the_preset_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset smoke has none of the tasks mnist-optimiser"):
        schedules.run(Options("smoke", tasks=("mnist-optimiser",), out=tmp_path))
    with pytest.raises(ValueError, match="did you mean 'digits-optimiser'"):
        Options(tasks=("digits-optimizer",))
