import dataclasses
import json
import math

import pytest
import torch

from benchmarks.__main__ import main as command_line
from benchmarks.throughput import Options, main, measure, report
from benchmarks.throughput.cases import CASES, SIZES, Measured, Size, load_task
from teachenv.experiment import CasesFailed
from teachenv.experiment.row import Row
from teachenv.experiment.rows import ResultsFile, read_rows

TINY = Size(seeds=1, pieces=2, steps=2, conv_steps=1, vector_steps=3)
CASE_OF_EACH = [
    Measured("step", "digits", "mlp", 1, "env-step"),
    Measured("vector", "digits", "mlp", 4, "vector-env"),
    Measured("paths", "digits", "mlp", 2, "vmap"),
    Measured("gradient", "digits", "mlp", 1, "rmd"),
    Measured("gradient", "digits", "mlp", 2, "finite-difference"),
]
METRICS = {
    "step": {"step_ratio", "student_steps_per_second", "plain_steps_per_second"},
    "vector": {"vector_speedup", "student_steps_per_second", "single_steps_per_second", "largest_difference"},
    "paths": {"vmap_speedup", "student_steps_per_second", "loop_steps_per_second", "auto_is_vmap"},
    "gradient": {"gradient_ratio", "student_steps_per_second", "plain_steps_per_second"},
}


@pytest.fixture
def tiny(monkeypatch):
    """The benchmark with one small case of each kind, all on the embedded digits."""
    monkeypatch.setattr(main, "CASES", CASE_OF_EACH)
    monkeypatch.setattr(main, "SIZES", dict.fromkeys(SIZES, TINY))
    monkeypatch.setattr(main, "ENVIRONMENT_OF", {"digits": "TeachDigits-v0"})


def row(case, metric, value, seed=0, **config):
    config = {"measurement": case.measurement, "students": case.students, "batch_size": 32, "threads": 1} | config
    return Row("throughput", "t", "d", case.student, case.method, seed, metric, value, 1, 1.0, config, "c", {})


def test_every_measurement_writes_its_rows_once_and_the_table_and_the_figure(tiny, tmp_path, capsys, request):
    command = ["throughput", "--preset", "smoke", "--out", str(tmp_path), "--threads", "1"]
    threads = torch.get_num_threads()
    assert command_line(command) == 0
    assert torch.get_num_threads() == threads
    rows = read_rows(tmp_path / "results.jsonl")
    for case in CASE_OF_EACH:
        own = [r for r in rows if (r.method, r.config["students"]) == (case.method, case.students)]
        assert {r.metric for r in own} == METRICS[case.measurement]
        assert all(r.value > 0 for r in own if r.metric not in ("largest_difference", "auto_is_vmap"))
        assert all(r.config["threads"] == 1 and r.dataset == "digits" for r in own)
    assert next(r.value for r in rows if r.metric == "largest_difference") <= 1e-4
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text()
    assert len(table.splitlines()) == 2 + len(CASE_OF_EACH)
    assert "env.step / plain PyTorch loop" in capsys.readouterr().out
    request.getfixturevalue("undrawn")
    assert command_line(command) == 0  # all of it is there already
    assert read_rows(tmp_path / "results.jsonl") == rows
    assert (tmp_path / "table.md").read_text() == table
    # Of another number of threads: kept, and not mixed in.
    other = [dataclasses.replace(r, value=99.0, config={**r.config, "threads": 3}) for r in rows]
    ResultsFile(tmp_path / "results.jsonl").append(other)
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows + other
    assert (tmp_path / "table.md").read_text() == table


def test_the_table_takes_the_median_over_repetitions_and_judges_it():
    step, vector = (
        Measured("step", "mnist", "mlp", 1, "env-step"),
        Measured("vector", "digits", "mlp", 64, "vector-env"),
    )
    rows = [row(step, "step_ratio", value, seed) for seed, value in enumerate([1.1, 9.0, 1.2])]
    rows += [row(step, "student_steps_per_second", 100.0), row(vector, "vector_speedup", 9.0)]
    rows += [row(vector, "largest_difference", 2e-4), row(vector, "student_steps_per_second", 1.0)]
    first, second = report.lines(rows)
    assert (report.ratio(first), report.verdict(first)) == (1.2, "<= 1.25: reached")
    assert (report.ratio(second), report.verdict(second)) == (9.0, ">= 10: missed")
    assert report.note(second).startswith("largest difference 2.0e-04, NOT within")
    assert "| 1.20 [1.10, 9.00] |" in report.make(rows).table()


def test_a_difference_that_is_not_a_number_is_not_taken_for_none(tiny, tmp_path, monkeypatch):
    class Broken(measure.TeachVectorEnv):
        def step(self, actions):
            observation, rewards, *rest = super().step(actions)
            return observation, rewards * math.nan, *rest

    monkeypatch.setattr(measure, "TeachVectorEnv", Broken)
    with pytest.raises(CasesFailed, match="largest_difference"):
        main.run(Options(preset="smoke", out=tmp_path))


def test_the_plain_loop_does_what_the_environment_does():
    task = load_task("digits", None)
    env = measure.TeachEnv(task=task, horizon=5)
    env.reset(seed=0)
    seconds = list(measure.plain_steps(env))
    assert len(seconds) == 5
    assert all(s > 0 for s in seconds)


@pytest.mark.parametrize("source", ["mnist", "cifar10"])
def test_data_that_are_not_on_the_disk_are_replaced_by_procedural_ones_that_say_so(source, tmp_path, capsys):
    task = load_task(source, tmp_path)
    assert task.pool[0].shape[1:] == {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[source]
    assert task.dataset in ("procedural-28x28", "synthetic")
    assert "procedural" in capsys.readouterr().err


def test_the_cases_are_those_that_the_project_promises():
    promised = [(case.source, case.student, case.students) for case in CASES if case.measurement in ("step", "vector")]
    assert promised == [("mnist", "mlp", 1), ("cifar10", "resnet8", 1), ("digits", "mlp", 64)]
    assert len({json.dumps(vars(case), sort_keys=True) for case in CASES}) == len(CASES)


def test_a_wrong_number_of_threads_is_refused_before_anything_is_written(tmp_path, capsys):
    assert command_line(["throughput", "--threads", "0", "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert "--threads 0" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
