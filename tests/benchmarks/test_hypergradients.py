import dataclasses
import os

import pytest
import torch

from benchmarks.__main__ import main as command_line
from benchmarks.hypergradients import Options, main, report
from benchmarks.hypergradients.batched import BATCHES, Batch, speedup
from benchmarks.hypergradients.contenders import CONTENDERS, plain, unrolled
from benchmarks.hypergradients.main import Size
from benchmarks.hypergradients.measure import peak, times
from benchmarks.hypergradients.problems import STUDENTS, Problem
from teachenv.experiment.rows import ResultsFile, Row, read_rows

OURS = [name for name in CONTENDERS if ":" in name]


@pytest.mark.parametrize("student", STUDENTS)
def test_every_contender_of_ours_computes_the_same_gradient(student, monkeypatch):
    monkeypatch.setitem(STUDENTS, student, dataclasses.replace(STUDENTS[student], batch=4))
    problem = Problem(student, 2, seed=0, dtype=torch.float64)
    wanted = unrolled(problem)
    assert wanted.abs().max() > 1e-8
    for name in OURS:
        error = (CONTENDERS[name](problem) - wanted).norm() / wanted.norm()
        assert error < (1e-9 if name.startswith("rmd") else 1e-3), name


def test_a_gradient_is_the_slope_of_the_plain_training():
    problem = Problem("lstm", 3, seed=0, dtype=torch.float64)
    gradient, h = unrolled(problem), 1e-5
    direction, actions = gradient / gradient.norm(), problem.actions
    values = []
    for sign in (1, -1):
        problem.actions = actions + sign * h * direction
        values.append(plain(problem))
    assert float((values[0] - values[1]) / (2 * h)) == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_problems_are_functions_of_their_seed_in_every_dtype():
    single, double, other = Problem("mlp", 3, 0), Problem("mlp", 3, 0, torch.float64), Problem("mlp", 3, 1)
    assert torch.equal(single.batch(1)[0].double(), double.batch(1)[0])
    assert torch.equal(single.actions.double(), double.actions)
    assert not torch.equal(single.actions, other.actions)


def test_the_command_writes_rows_table_and_figure_and_takes_up_where_it_stopped(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(main.SIZES, "smoke", Size(1, 1, 0.0, ("mlp",), ("unrolled",), 1, (4, 5, 6), ("lenet",)))
    monkeypatch.setattr(main, "alone", lambda function, **arguments: function(**arguments | _unlimited(arguments)))
    monkeypatch.setitem(main.BATCHES, "lenet", Batch(2, 2, {"task": "synthetic", "student": "lenet", "dev_size": 8}))
    command = ["hypergradients", "--preset", "smoke", "--students", "lstm", "--out", str(tmp_path)]
    command += ["--contenders", "unrolled", "rmd:all", "rmd:sqrt"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(r.task, r.student, r.method) for r in rows} == {
        (task, student, method)
        for task, student in (("usual", "lstm"), ("length", "mlp"))
        for method in ("unrolled", "rmd:all", "rmd:sqrt")
    } | {("batched", "lenet", "2 students")}
    assert all(r.value < 1e-4 for r in rows if r.metric == "relative_error")
    assert all(r.value > 0 for r in rows if r.metric == "time_ratio")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text()
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + 3 + 2 + 1
    assert "grows like T to the power of" in table
    assert "| 2 lenet | 2 | loop |" in table
    assert "rmd:sqrt" in capsys.readouterr().out
    # Those of another number of threads are kept, and not mixed in.
    other = [dataclasses.replace(r, value=99.0, config={**r.config, "threads": 9}) for r in rows]
    ResultsFile(tmp_path / "results.jsonl").append(other)
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows + other
    assert (tmp_path / "table.md").read_text() == table


def _unlimited(arguments):
    """Without the memory limit, which would bind the process of the tests."""
    return {"limit": None} if "limit" in arguments else {}


def test_a_contender_that_is_not_installed_is_reported_not_left_out(monkeypatch, tmp_path):
    def absent(problem):
        import no_such_library  # noqa: F401

    monkeypatch.setitem(CONTENDERS, "higher", absent)
    found = peak("higher", "lstm", 2, 0, torch.get_num_threads())
    assert found == {"failed": "not installed: no_such_library"}
    monkeypatch.setattr(main, "alone", lambda function, **arguments: found)
    monkeypatch.setitem(main.SIZES, "smoke", Size(1, 1, 0.0, ("mlp",), ("unrolled",), 1, (), ()))
    main.run(Options(preset="smoke", students=("lstm",), contenders=("higher",), out=tmp_path))
    assert report.usual(read_rows(tmp_path / "results.jsonl"))[0].body[0][3] == "failed: not installed: no_such_library"
    # Installed since then: it is tried again, and the failure is forgotten.
    monkeypatch.undo()
    monkeypatch.setattr(main, "alone", lambda function, **arguments: function(**arguments | _unlimited(arguments)))
    monkeypatch.setitem(CONTENDERS, "higher", unrolled)
    monkeypatch.setitem(main.SIZES, "smoke", Size(1, 1, 0.0, ("mlp",), ("unrolled",), 1, (), ()))
    main.run(Options(preset="smoke", students=("lstm",), contenders=("higher",), out=tmp_path))
    assert float(report.usual(read_rows(tmp_path / "results.jsonl"))[0].body[0][3]) > 1


def test_contenders_take_turns_at_least_so_often_and_so_long(monkeypatch):
    calls = []
    for name in ("unrolled", "higher"):
        monkeypatch.setitem(CONTENDERS, name, lambda problem, name=name: calls.append((name, problem.steps)))
    found = times(("unrolled", "higher"), "lstm", 4, 0, 2, 0.0, torch.get_num_threads())
    assert calls == [("unrolled", 4), ("higher", 4)] * 3  # one round to warm up
    assert set(found) == {"unrolled", "higher"}
    calls.clear()
    times(("unrolled", "higher"), "lstm", 4, 0, 2, 0.5, torch.get_num_threads())
    assert len(calls) > 6


def test_a_process_that_dies_is_a_failure_and_not_the_end():
    assert "died" in main.alone(os._exit, status=1)["failed"]


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_has_the_gradients_of_its_students(name):
    found = speedup(name, 2, 3, seed=0, turns=1, threads=torch.get_num_threads())
    assert found["relative_error"] < 1e-4
    assert found["speedup"] > 0


def test_the_growth_of_memory_is_its_exponent():
    def row(steps, value):
        named = ("hypergradients", "length", "procedural", "mlp", "ours", 0, "extra_bytes")
        return Row(*named, value, steps, 1.0, {"steps": steps}, "", {})

    rows = [row(steps, 7e6 * steps**0.5) for steps in (16, 64, 256)]
    assert report.exponents(rows) == "0.50 (ours, T = 16 to 256)"
