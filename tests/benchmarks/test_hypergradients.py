import dataclasses

import pytest
import torch

from benchmarks.__main__ import main as command_line
from benchmarks.hypergradients import Options, estimators, main, measure, report
from benchmarks.hypergradients.contenders import CONTENDERS, Ours, plain, takes, unrolled
from benchmarks.hypergradients.main import Size
from benchmarks.hypergradients.measure import BATCHES, Batch, in_turn, speedup
from benchmarks.hypergradients.problems import STUDENTS, Problem
from meta.hypergradients import Estimates
from teachenv.experiment.row import Row
from teachenv.experiment.rows import ResultsFile, read_rows
from teachenv.experiment.tables import grouped

OURS = [name for name, contender in CONTENDERS.items() if isinstance(contender, Ours)]


@pytest.mark.parametrize("student", STUDENTS)
def test_every_contender_of_ours_computes_the_same_gradient(student, monkeypatch):
    small = {"shape": (4, 128), "batch": 2} if student == "transformer-12" else {"batch": 4}
    monkeypatch.setitem(STUDENTS, student, dataclasses.replace(STUDENTS[student], **small))
    problem = Problem(student, 2, seed=0, dtype=torch.float64)
    wanted = unrolled(problem)
    assert wanted.abs().max() > 1e-8
    for name in [*OURS, *(["rmd:blockwise"] if STUDENTS[student].blocks else [])]:
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
    single, double, other = Problem("mlp", 3, 0), Problem("mlp", 3, 0, dtype=torch.float64), Problem("mlp", 3, 1)
    assert torch.equal(single.batch(1)[0].double(), double.batch(1)[0])
    assert torch.equal(single.actions.double(), double.actions)
    assert not torch.equal(single.actions, other.actions)


@pytest.fixture
def here(monkeypatch):
    """What is measured in processes of their own is measured in this one, without the limit that would bind it."""

    def called(function, **arguments):
        return function(**arguments | ({"limit": None} if "limit" in arguments else {}))

    monkeypatch.setattr(measure, "alone", called)


def test_the_command_writes_rows_table_and_figure_and_takes_up_where_it_stopped(
    here, few_images, monkeypatch, tmp_path, capsys, request
):
    monkeypatch.setitem(main.SIZES, "smoke", Size(1, 1, 0.0, ("mlp",), ("unrolled",), 1, (4, 5, 6), ("lenet",), ()))
    monkeypatch.setitem(STUDENTS, "lstm", dataclasses.replace(STUDENTS["lstm"], steps=6, batch=4))
    monkeypatch.setitem(BATCHES, "lenet", Batch(2, 2, {"task": "synthetic", "student": "lenet", "dev_size": 8}))
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
    assert len([line for line in table.splitlines() if line.startswith("|")]) == (2 + 3) + (2 + 9) + (2 + 1)
    assert "grows like T to the power of" in table
    assert "| 2 lenet | 2 | loop |" in table
    assert "rmd:sqrt" in capsys.readouterr().out
    # Those of another number of threads are kept, and not mixed in.
    other = [dataclasses.replace(r, value=99.0, config={**r.config, "threads": 9}) for r in rows]
    ResultsFile(tmp_path / "results.jsonl").append(other)
    request.getfixturevalue("undrawn")
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows + other
    assert (tmp_path / "table.md").read_text() == table


def test_what_fails_is_reported_tried_again_and_not_on_longer_trainings(here, undrawn, monkeypatch, tmp_path):
    tried = []

    def absent(problem):
        tried.append(problem.steps)
        import no_such_library  # noqa: F401

    monkeypatch.setitem(CONTENDERS, "higher", absent)
    monkeypatch.setitem(main.SIZES, "smoke", Size(1, 1, 0.0, ("mlp",), ("unrolled",), 3, (4, 5), (), ()))
    options = Options(preset="smoke", students=("lstm",), contenders=("higher",), out=tmp_path)
    main.run(options)
    assert len(tried) == 2  # of two lengths the first
    rows = read_rows(tmp_path / "results.jsonl")
    assert (
        report.usual([r for r in rows if r.task == "usual"])[0].body[0][3] == "failed: not installed: no_such_library"
    )
    # Installed since then: it is tried again, and the failure is forgotten.
    monkeypatch.setitem(CONTENDERS, "higher", unrolled)
    main.run(options)
    rows = read_rows(tmp_path / "results.jsonl")
    assert float(report.usual([r for r in rows if r.task == "usual"])[0].body[0][3]) > 1
    assert {r.config["steps"] for r in rows if r.metric == "time_ratio" and r.task == "length"} == {4, 5}


def test_contenders_are_warm_before_they_take_turns(monkeypatch):
    calls = []
    for name in ("unrolled", "higher"):
        monkeypatch.setitem(CONTENDERS, name, lambda problem, name=name: calls.append((name, problem.steps)))
    found = in_turn(("unrolled", "higher"), ("lstm", 4, 0, "cpu"), 2, 0.0)
    assert calls == [("unrolled", 4), ("higher", 4)] * 3
    assert set(found.turns) == {"unrolled", "higher", "plain"}


def test_contenders_are_asked_for_the_students_that_they_take():
    assert takes("jax", "lstm")
    assert not takes("jax", "transformer-12")
    assert takes("rmd:blockwise", "transformer-12")
    assert not takes("rmd:blockwise", "mlp")


@pytest.mark.parametrize(
    ("student", "name"), [("mlp", "jax"), ("mlp", "jax-states"), ("mlp", "jax-sqrt"), ("lstm", "jax")]
)
def test_jax_computes_the_same_gradient(student, name):
    pytest.importorskip("equinox")
    pytest.importorskip("optax")
    problem = Problem(student, 3, seed=0, batch=4)
    wanted = unrolled(problem)
    assert (CONTENDERS[name](problem) - wanted).norm() < 1e-3 * wanted.norm()


def test_a_file_beyond_the_limit_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "alone", None)
    found = measure.memory("rmd:disk", ("lstm", 1000, 0, "cpu"), None, 2**20, False, tmp_path)
    assert found.data == {"failed": "its file would take 0.22 GiB, more than --disk-limit"}


def test_what_was_predicted_of_a_hypergradient_is_beside_what_it_took(here):
    found = measure.differentiated("rmd:log", ("lstm", 8, 0, "cpu"), None)
    assert found.predictions["bytes_ratio"] == pytest.approx(1, abs=0.3)
    assert found.predictions["seconds_ratio"] > 0
    assert measure.differentiated("unrolled", ("lstm", 2, 0, "cpu"), None).predictions == {}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_has_the_gradients_of_its_students(name, few_images):
    settings = {**BATCHES[name].settings, "batch_size": 8, "dev_size": 16}
    found = speedup(Batch(2, 3, settings), seed=0, turns=1).values
    assert found["relative_error"] < 1e-4
    assert found["speedup"] > 0


def test_the_growth_of_memory_is_its_exponent():
    def row(steps, value):
        named = ("hypergradients", "length", "procedural", "mlp", "ours", 0, "extra_bytes")
        return Row(*named, value, steps, 1.0, {"steps": steps}, "", {})

    rows = [row(steps, 7e6 * steps**0.5) for steps in (16, 64, 256)]
    assert report.exponents(rows) == "0.50 (ours, T = 16 to 256)"


def test_the_study_of_estimators_has_files_of_its_own(undrawn, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(estimators, "PAIRS", 2)
    command = ["hypergradients", "--preset", "smoke", "--study", "estimators", "--out", str(tmp_path), "--estimators"]
    names = ["rmd", "truncated:10", "implicit:cg-20", "nres", "reinforce"]
    assert command_line([*command, *names]) == 0
    rows = read_rows(tmp_path / "estimators.jsonl")
    assert {row.method for row in rows} == set(names)
    assert [row.value for row in rows if (row.method, row.metric) == ("rmd", "relative_error")] == [0.0]
    assert "| 20 | truncated:10 |" in (tmp_path / "estimators.md").read_text()
    assert not (tmp_path / "results.jsonl").exists()


def test_errors_to_expect_are_those_of_means_of_samples():
    generator = torch.Generator().manual_seed(0)
    exact, offset = torch.tensor([3.0, 4.0]).double(), torch.tensor([0.5, 0.0]).double()
    samples = exact + offset + 2 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    values = estimators.compared(Estimates(samples, 2 * 10 * len(samples)), exact, steps=10)
    # A sample costs two trainings: there are two at the smaller budget.
    means = samples.view(-1, 2, 2).mean(1)
    assert values["bias"] == pytest.approx(0.1, abs=0.02)
    assert values["bias_error"] == pytest.approx(8**0.5 / 20_000**0.5 / 5, rel=0.05)
    assert values["relative_error"] == pytest.approx(float((means - exact).square().sum(1).mean().sqrt()) / 5, rel=0.05)
    length = float(means.square().sum(1).mean().sqrt())
    assert values["cosine"] == pytest.approx(float(means.mean(0) @ exact) / (5 * length), rel=0.02)
    assert values["cosine_many"] > values["cosine"]


def test_trainings_of_a_batch_are_that_of_the_exact_gradient():
    training = estimators.Static(steps=3, seed=1)
    process, state = training.batch(2)
    for t in range(3):
        state = process.step(state, training.action.expand(2, -1), t)
    single, begin = training.single()
    wanted = single.value(training.end)[0]
    torch.testing.assert_close(process.value(state)[0], wanted.expand(2))
    assert not torch.equal(single.value(begin)[0], wanted)


def test_a_noisy_mean_is_not_taken_for_a_direction():
    def line(**values):
        named = ("hypergradients", "estimators", "digits", "mlp", "nres", 0)
        rows = [Row(*named, metric, value, 60, 1.0, {"steps": 60}, "", {}) for metric, value in values.items()]
        return grouped(rows, key=lambda row: "")[0]

    stored = {"deviation": 6.0, "bias_error": 1.0, "cosine": 0.99, "relative_error_many": 5.0}
    unclear, clear = line(bias=1.5, **stored), line(bias=4.0, **stored)
    assert estimators.expected(unclear, "cosine", 4) == [pytest.approx(10**-0.5)]
    assert estimators.expected(unclear, "relative_error", 64) == [pytest.approx(6 / 8)]
    assert estimators.expected(clear, "cosine", 4) == [0.99]
    assert estimators.expected(clear, "relative_error", 64) == [5.0]
