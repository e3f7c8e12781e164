"""`teachenv.compare`: one call to a table, the same again after an interruption, and one line for what cannot be."""

import json
import re
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformReward
from torch import nn

import agents.methods
import meta.methods
import teachenv
from teachenv.experiment import Candidate, CasesFailed, Effort, Method, Named, fixed
from teachenv.experiment.contest import Rung
from teachenv.experiment.rows import read_rows
from teachenv.experiment.trusted_dev import LEARN_FROM, baselines

EFFORT = Effort(student_steps=32, parallel=2, rungs=(Rung(2, 16, 2, 3),), points=2, students=2, final_students=3)


def made_up(name: str = "vectors") -> teachenv.Task:
    rng = np.random.default_rng(0)
    y = np.arange(72) % 3
    x = (rng.normal(size=(len(y), 4)) + rng.normal(size=(3, 4))[y]).astype(np.float32)
    return teachenv.Task(name, "made-up", (x[:60], y[:60]), (x[60:], y[60:]), 3)


def network() -> nn.Module:
    return nn.Linear(4, 3)


class Distance(teachenv.Measure):
    target_kind = None

    def objective(self, outputs, targets):
        return -((outputs - targets) ** 2).mean()

    def score(self, outputs, targets):
        return ((outputs - targets) ** 2).mean().neg().exp()


def methods() -> dict[str, Method]:
    return {
        "cross-entropy": fixed("cross-entropy", weight_decay=[0, 1e-3]),
        "rmd": meta.methods.rmd(scale=[0.5, 1.0], learning_rate=[0.01, 0.03]),
        "ddpg": agents.methods.ddpg(scale=[0.1, 0.5], action_penalty=[100, 1000], buffer_size=1000),
    }


def compared(out, **changes):
    given = {
        "task": made_up(),
        "student": network,
        "horizon": 4,
        "batch_size": 8,
        "dev_size": 20,
        "methods": methods(),
        "tune": {"learning_rate": [0.4], "lr_schedule": ["linear"]},
        "budget": 32,
        "seeds": 2,
        "out": out,
        "backend": "inline",
        "effort": EFFORT,
    }
    return teachenv.compare(**given | changes)


def numbers(folder) -> set:
    return {
        (r.method, r.seed, r.metric, r.student_steps, r.value, json.dumps(r.config, sort_keys=True))
        for r in read_rows(folder / "results.jsonl")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, compared(folder)


@pytest.fixture(autouse=True)
def quick(undrawn: None) -> None:
    """Only the report of `finished` is drawn."""


def test_a_comparison_gives_a_table_figures_and_a_page(finished) -> None:
    folder, report = finished
    assert "| cross-entropy (best fixed) |" in report.table() or "| cross-entropy |" in report.table()
    assert {"rmd", "ddpg", "cross-entropy"} == {row.method for row in report.rows}
    assert set(report.figures) >= {"test_error", "teacher_training", "learning_curves"}
    assert report.html.exists()
    assert (folder / "table.md").read_text() == report.table()
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]


def test_every_method_has_the_same_budget_and_as_many_configurations(finished) -> None:
    folder, _ = finished
    rows = read_rows(folder / "results.jsonl")
    tuned = {m: sum(r.method == m and r.config["stage"] == "tuning" for r in rows) for m in methods()}
    assert len({*tuned.values()}) == 1
    budgets = {r.config["budget"] for r in rows if r.config["stage"] == "training" and r.method != "cross-entropy"}
    assert budgets == {32}


def test_test_is_measured_once_a_method_and_seed(finished) -> None:
    folder, _ = finished
    found = [(r.method, r.seed) for r in read_rows(folder / "results.jsonl") if r.metric == "test_error"]
    assert sorted(found) == sorted((m, s) for m in methods() for s in range(2))


def test_the_same_call_again_does_nothing(finished, monkeypatch) -> None:
    folder, report = finished
    before = (folder / "results.jsonl").read_bytes()
    monkeypatch.setattr("teachenv.experiment.comparison.train", None)
    monkeypatch.setattr("teachenv.experiment.comparison.tune", None)
    assert compared(folder).table() == report.table()
    assert (folder / "results.jsonl").read_bytes() == before


def test_processes_give_the_same_rows_and_take_closures_and_lambdas(finished, tmp_path) -> None:
    scale = 1.0
    student = Named("network", lambda: nn.Linear(int(4 * scale), 3))
    few = {name: methods()[name] for name in ("cross-entropy", "rmd")}
    compared(tmp_path, backend="processes", workers=2, student=student, methods=few)
    assert numbers(tmp_path) == {row for row in numbers(finished[0]) if row[0] in few}


def test_more_seeds_and_methods_are_added_to_what_is_there(finished, tmp_path) -> None:
    folder = tmp_path / "more"
    few = {name: methods()[name] for name in ("cross-entropy", "rmd")}
    compared(folder, methods={"cross-entropy": few["cross-entropy"]}, seeds=1)
    compared(folder, methods=few)
    assert numbers(folder) == {row for row in numbers(finished[0]) if row[0] in few}


def test_a_method_that_fails_leaves_the_others_and_is_named(tmp_path) -> None:
    def broken(env, seed, options):
        raise RuntimeError("no teacher today")

    own = {**methods(), "broken": Method(methods()["rmd"].candidates, broken)}
    del own["ddpg"]
    with pytest.raises(CasesFailed, match="no teacher today") as raised:
        compared(tmp_path, methods=own, seeds=1)
    assert len(raised.value.failures) == 2  # both of its configurations
    assert {r.method for r in read_rows(tmp_path / "results.jsonl")} == {"cross-entropy", "rmd"}
    table, page = ((tmp_path / name).read_text() for name in ("table.md", "report.html"))
    assert "| rmd |" in table
    for text in (table, page):
        assert "What failed" in text
        assert all(failure.label in text for failure in raised.value.failures)
        assert "no teacher today" in text


def test_a_trusted_dev_set_brings_two_methods_that_train_on_its_labels(tmp_path) -> None:
    own = {"task": made_up().with_dev(21, 0), "seeds": 1, "effort": BRIEF}
    report = compared(tmp_path, **own, dev_size=21, methods={"focal": fixed("focal", gamma=[1.0, 2.0])})
    rows = read_rows(tmp_path / "results.jsonl")
    assert [f"| {name}" in report.table() for name in ("focal", *LEARN_FROM)] == [True] * 3
    assert "from those of dev alone" in report.table()
    tried = {(r.method, r.config["own"].get("learn_from"), r.config["own"].get("weight_decay")) for r in rows}
    assert tried >= {(name, of, decay) for name, of in LEARN_FROM.items() for decay in (0.0, 1e-3)}
    assert (
        len({sum(r.method == m and r.config["stage"] == "tuning" for r in rows) for m in ("focal", *LEARN_FROM)}) == 1
    )
    assert {r.config["own"].get("batch_size") for r in rows if r.method == "dev only"} == {None}
    given = {"dev only": fixed("focal", learn_from="dev", dev_size=10, gamma=[1.0, 2.0])}
    ours = compared(tmp_path / "own", **own, methods=given)
    assert {r.config["own"]["loss_kwargs"]["base"] for r in ours.rows if r.method == "dev only"} == {"focal"}


def test_baselines_of_dev_fit_the_task_and_the_number_of_candidates() -> None:
    def problem(**options):
        return teachenv.TeachEnv(**{"student": network, "batch_size": 16, **options}).problem

    assert baselines(problem(task=made_up(), dev_size=20), 2) == {}
    few = baselines(problem(task=made_up().with_dev(9, 0)), 4)
    decays = [candidate.environment["weight_decay"] for candidate in few["train + dev"].candidates]
    assert decays == [0.0, 0.001, 0.003, 0.01]
    assert {candidate.environment["batch_size"] for candidate in few["dev only"].candidates} == {5}
    assert len(baselines(problem(task=made_up().with_dev(9, 0)), 1)["dev only"].candidates) == 1
    x, y = made_up().pool[0], made_up().pool[0][:, :3]
    numbers = teachenv.Task("n", "made-up", (x[:40], y[:40]), (x[40:50], y[40:50]), 3, Distance(), dev=(x[50:], y[50:]))
    of_numbers = problem(task=numbers, loss="sample-weights", loss_kwargs={"base": "squared-error"})
    assert baselines(of_numbers, 1)["dev only"].candidates[0].environment["loss_kwargs"] == {"base": "squared-error"}
    pair = problem(task=made_up().with_dev(9, 0), teacher=network, loss="distillation")
    assert "loss" not in baselines(pair, 1)["dev only"].candidates[0].environment


BRIEF = Effort(student_steps=4, parallel=1, rungs=(Rung(2, 4, 1, 1),), points=1, students=1, final_students=1)
ONE = Effort(student_steps=4, parallel=1, rungs=(), points=1, students=1, final_students=1)


class OwnTeacher:
    """A user's teacher, with one thing wrong."""

    def __init__(self, env, wrong):
        self.env, self.wrong, self.num_timesteps = env, wrong, 0

    def learn(self, steps, callback=None, log_interval=None, reset_num_timesteps=True):
        if self.wrong == "learn":
            raise RuntimeError("it does not learn")
        self.num_timesteps += steps

    def predict(self, observation, deterministic=True):
        if self.wrong == "predict":
            raise RuntimeError("it does not predict")
        actions = np.full((len(observation), self.env.action_space.shape[-1]), np.nan if self.wrong == "nan" else 0.0)
        return actions if self.wrong == "no pair" else (actions, None)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("learn", "RuntimeError: it does not learn"),
        ("predict", "RuntimeError: it does not predict"),
        ("nan", "the action contains NaN"),
        ("no pair", r"OwnTeacher.predict returned a ndarray, expected the pair \(actions, state\)"),
        ("no teacher", "makes a NoneType without predict and learn, expected a teacher"),
    ],
)
def test_what_is_wrong_with_a_teacher_of_ones_own_is_said_and_the_others_are_kept(wrong, says, tmp_path) -> None:
    own = Method(make=lambda env, seed, options: None if wrong == "no teacher" else OwnTeacher(env, wrong), learns=True)
    given = {"methods": {"focal": fixed("focal"), "own": own}, "tune": None, "seeds": 1, "effort": ONE}
    with pytest.raises(CasesFailed, match=f"^'vectors: own, seed 0' failed: .*{says}.* keeps what was done"):
        compared(tmp_path, **given)
    assert {row.method for row in read_rows(tmp_path / "results.jsonl")} == {"focal"}


def test_a_teacher_of_ones_own_that_learns_needs_nothing_of_stable_baselines3(tmp_path) -> None:
    own = Method(make=lambda env, seed, options: OwnTeacher(env, None), learns=True)
    report = compared(tmp_path, methods={"own": own}, tune=None, seeds=1, effort=ONE)
    assert {row.student_steps for row in report.rows if row.metric == "test_error"} == {4}


def test_a_folder_is_free_for_other_processes_after_an_error_too(tmp_path) -> None:
    own = Method(make=lambda env, seed, options: None)
    with pytest.raises(CasesFailed) as kept:  # as a notebook keeps the last error, with all that its traceback holds
        compared(tmp_path, methods={"own": own}, tune=None, seeds=1, effort=ONE)
    assert kept.tb is not None
    assert not (tmp_path / ".results.jsonl.lock").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"contents": [1]}', "\udcff", None])
def test_a_damaged_description_of_a_folder_is_refused_in_one_line(content, tmp_path) -> None:
    file = tmp_path / "comparison.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"comparison\.json is damaged \(.+\); repair it, or choose another out$"):
        compared(tmp_path, methods={"focal": fixed("focal")})
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_where_checkpoints_go_is_said_before_any_work(tmp_path) -> None:
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(OSError, match="checkpoints is a file, expected a folder; remove it, or choose another folder"):
        compared(tmp_path, methods={"focal": fixed("focal")})
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("change", [{"points": 0}, {"students": 0}, {"parallel": 0}, {"rungs": (Rung(1, 1, 1, 0),)}])
def test_an_effort_of_nothing_is_refused(change) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1, found 0"):
        Effort(**{**vars(EFFORT), **change})


class Hill:
    """A teacher of one's own that knows nothing of Stable-Baselines3: the best of some constant actions."""

    def __init__(self, env, seed, step):
        self.env, self.step, self.rng = env, step, np.random.default_rng(seed)
        self.best = (-np.inf, np.zeros(env.single_action_space.shape, np.float32))

    def learn(self, total_timesteps):
        for _ in range(total_timesteps // (self.env.num_envs * 4)):
            action = self.rng.uniform(-self.step, self.step, self.best[1].shape).astype(np.float32)
            self.env.reset(seed=0)
            gain = sum(self.env.step(np.tile(action, (self.env.num_envs, 1)))[1].mean() for _ in range(4))
            self.best = max(self.best, (gain, action), key=lambda found: found[0])

    def predict(self, observation, deterministic=True):
        return np.broadcast_to(self.best[1], (len(observation), *self.best[1].shape)), None


class Spender(Hill):
    """A teacher that takes a multiple of the steps that it is given."""

    def __init__(self, env, seed, multiple):
        super().__init__(env, seed, 0.1)
        self.multiple = multiple

    def learn(self, total_timesteps):
        super().learn(round(self.multiple * total_timesteps))


@pytest.mark.parametrize(("multiple", "spent"), [(0.5, 16), (1.0, 32), (1.25, 40)])
def test_the_steps_of_a_teacher_of_ones_own_are_counted(tmp_path, multiple, spent) -> None:
    spender = Method((Candidate(),), lambda env, seed, options: Spender(env, seed, multiple), learns=True)
    report = compared(tmp_path, methods={"spender": spender}, tune=None, seeds=1)
    assert {row.student_steps for row in report.rows if row.metric == "test_error"} == {spent}


def test_a_teacher_of_ones_own_that_exceeds_its_budget_is_refused(tmp_path) -> None:
    spender = Method((Candidate(),), lambda env, seed, options: Spender(env, seed, 3), learns=True)
    with pytest.raises(CasesFailed, match="took 48 steps of its environment, expected at most 24: the 16"):
        compared(tmp_path, methods={"spender": spender}, tune=None, seeds=1)


def test_a_teacher_of_ones_own_needs_no_more_than_learn_and_predict(tmp_path) -> None:
    def make(env, seed, options):
        return Hill(env, seed, **options)

    hill = Method(tuple(Candidate(teacher={"step": step}) for step in (0.1, 0.5)), make, learns=True)
    report = compared(tmp_path, methods={"hill": hill}, seeds=1)
    objectives = {row.student_steps: row.value for row in report.rows if row.metric == "dev_objective"}
    assert sorted(objectives) == [0, 32]
    assert objectives[0] != objectives[32]


def test_the_error_of_a_script_has_the_traceback_of_what_failed(tmp_path) -> None:
    def broken(env, seed, options):
        return 1 / 0

    with pytest.raises(CasesFailed) as raised:
        compared(tmp_path, methods={"broken": Method((Candidate(),), broken)}, tune=None, seeds=1)
    if sys.version_info >= (3, 11):
        assert "in broken" in raised.value.__notes__[0]


@pytest.mark.parametrize("name", ["../a", "/a|b\n", "." + 300 * "x"])
def test_names_of_any_characters_stay_in_the_folder(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    compared(None, task=made_up(name), methods={f"{name}:rmd": meta.methods.rmd()}, tune=None, seeds=1, effort=ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert any(path.name.startswith("coefficients-") for path in folder.glob("*.png"))


def _own_environment() -> None:
    if "Mine-v0" not in gym.registry:
        gym.register("Mine-v0", entry_point=lambda **k: teachenv.TeachEnv(task=made_up("mine"), **k))


def test_a_registered_environment_of_ones_own(tmp_path) -> None:
    _own_environment()
    few = {"cross-entropy": fixed("cross-entropy"), "rmd": meta.methods.rmd()}
    report = compared(tmp_path, env="Mine-v0", task=None, methods=few, seeds=1)
    assert "## mine" in report.table()


def test_one_seed_has_no_interval(tmp_path) -> None:
    report = compared(tmp_path, methods={"cross-entropy": fixed("cross-entropy")}, seeds=1)
    (line,) = [line for line in report.table().splitlines() if "cross-entropy" in line]
    assert "[" not in line.split("|")[2]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"task": None}, ValueError, "found neither"),
        ({"env": "TeachDigits-v0"}, ValueError, "found both"),
        ({"task": None, "env": "TeachDigit-v0"}, ValueError, "did you mean 'TeachDigits-v0'"),
        ({"task": None, "env": "nowhere:Mine-v0"}, ImportError, "found no module 'nowhere' (of 'nowhere:Mine-v0')"),
        ({"task": None, "env": "CartPole-v1"}, ValueError, "environment 'CartPole-v1' trains no student"),
        ({"out": ""}, ValueError, "out must be None or the path of a folder, found ''"),
        ({"out": "a\0b"}, ValueError, "out must be None or the path of a folder"),
        ({"backend": "ray", "address": 6379}, ValueError, "address must be None or a text, found 6379"),
        ({"methods": {}}, ValueError, "at least one method"),
        ({"methods": {"rmd": meta.methods.rmd}}, ValueError, "methods['rmd'] must be a method"),
        ({"methods": {**methods(), "random": meta.methods.random()}}, ValueError, "random 1"),
        ({"student": lambda: nn.Linear(4, 3)}, ValueError, "student: found <function"),
        ({"loss": "bilinar", "methods": {"fixed": fixed("cross-entropy")}}, ValueError, "did you mean 'bilinear'"),
        ({"horizons": 4}, TypeError, "did you mean 'horizon'"),
        ({"tune": {"learning_rat": [0.1]}}, TypeError, "did you mean 'learning_rate'"),
        ({"tune": {"learning_rate": 0.1}}, ValueError, "must be a list"),
        ({"tune": {"learning_rate": []}}, ValueError, "at least one value"),
        ({"tune": {"learning_rate": [-1.0]}}, ValueError, "learning_rate must be"),
        ({"budget": 0}, ValueError, "budget must be"),
        ({"seeds": 1.5}, ValueError, "seeds must be"),
        ({"backend": "slurm"}, ValueError, "unknown backend 'slurm'"),
        ({"workers": 0}, ValueError, "workers must be"),
        ({"workers": "2"}, ValueError, "workers must be"),
        ({"effort": 3}, ValueError, "effort must be"),
        ({"tune": 3}, ValueError, "tune must be"),
        ({"equal_grids": "no"}, ValueError, "equal_grids must be"),
        ({"task": None, "env": 3}, ValueError, "env must be"),
        ({"out": 3}, ValueError, "out must be"),
        ({"methods": {3: fixed("cross-entropy")}}, ValueError, "names of methods must be texts, found 3"),
        (
            {"methods": {"rmd": meta.methods.rmd(q=0.3)}},
            TypeError,
            "method 'rmd': loss 'bilinear' got an unexpected keyword argument 'q'",
        ),
        ({"methods": {"a": meta.methods.l2rw(scale=0.5)}}, ValueError, "method 'a': L2RW's weights need loss="),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_leaves_nothing(changes, error, says, tmp_path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(error) as raised:
        compared(**{"out": folder} | changes)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    "changes",
    [{"task": made_up("others")}, {"horizon": 8}, {"student": Named("network", lambda: nn.Linear(4, 3, bias=False))}],
    ids=["task", "horizon", "code of the student"],
)
def test_a_folder_of_another_comparison_is_refused(changes, finished) -> None:
    folder, _ = finished
    before = (folder / "results.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds another comparison"):
        compared(folder, **changes)
    assert (folder / "results.jsonl").read_bytes() == before


def test_a_setting_that_is_left_out_is_named(finished) -> None:
    with pytest.raises(ValueError, match=r"found options\['trusted_dev'\] 'nothing', expected None"):
        compared(finished[0], trusted_dev=None)


def test_the_setting_that_differs_is_named(finished) -> None:
    with pytest.raises(ValueError, match=r"found options\['dev_size'\] 20, expected 21; choose another out"):
        compared(finished[0], dev_size=21)


def _pushing(size: float) -> Method:
    return Method(make=lambda env, seed, options: Push(size))


class Push:
    """A teacher that always takes the same action."""

    def __init__(self, size):
        self.size = size

    def predict(self, observation, deterministic=True):
        return np.full((len(observation), 9), self.size, np.float32), None


@pytest.mark.parametrize(
    "changed",
    [
        meta.methods.evolution_strategies(),
        meta.methods.rmd("FreePolicy"),
        agents.methods.ddpg(buffer_size=100),
        _pushing(0.1),
        meta.methods.self_paced(),
    ],
    ids=["teacher", "policy", "package", "own", "wrapper"],
)
def test_another_method_behind_a_name_is_refused(changed, tmp_path) -> None:
    (tmp_path / "own").mkdir()
    for folder, method in ((tmp_path, meta.methods.rmd()), (tmp_path / "own", _pushing(0.2))):
        compared(folder, methods={"mine": method}, seeds=1, effort=ONE)
        with pytest.raises(ValueError, match="content of 'method mine' has changed since"):
            compared(folder, methods={"mine": changed}, seeds=1, effort=ONE)


def _reading() -> Method:
    return Method(make=lambda env, seed, options: (CALLS.append(PATTERN.match("a")), Push(0.1))[1])


PATTERN, CALLS = re.compile("a"), []


def test_what_a_method_reads_from_its_module_refuses_nothing(tmp_path) -> None:
    """A compiled pattern is another object in each process, and a list may grow."""
    for _ in range(2):
        compared(tmp_path, methods={"mine": _reading()}, seeds=1, effort=ONE)
    assert json.loads((tmp_path / "comparison.json").read_text())["contents"]["method mine"]


@pytest.mark.parametrize(
    "changed", [{"learning_rate": 0.3}, {"task": made_up("others")}, {"student": "mlp"}, {"max_episode_steps": 100}]
)
def test_another_registration_of_an_id_is_refused(changed, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(gym.registry, "Changing-v0", None)  # which is taken out in the end

    def registered(max_episode_steps=None, **changed):
        del gym.registry["Changing-v0"]
        options = {"task": made_up("own"), "student": network, "horizon": 4, **changed}
        gym.register("Changing-v0", "teachenv:TeachEnv", kwargs=options, max_episode_steps=max_episode_steps)

    def call():
        sizes = {"batch_size": 8, "dev_size": 20, "backend": "inline", "out": tmp_path, "effort": ONE}
        teachenv.compare("Changing-v0", methods={"a": fixed("cross-entropy")}, seeds=1, **sizes)

    registered()
    call()
    registered(**changed)
    with pytest.raises(ValueError, match="content of 'registration of Changing-v0' has changed since"):
        call()
    registered()
    call()


class Mine(teachenv.TeachEnv):
    """An environment whose rewards are others."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, -reward, *rest


@pytest.mark.parametrize(
    ("registration", "says"),
    [
        ({"entry_point": Mine}, "registered with a subclass, Mine; a comparison"),
        ({"entry_point": lambda **k: TransformReward(teachenv.TeachEnv(**k), abs)}, "the wrapper TransformReward;"),
        ({"entry_point": "teachenv:TeachEnv", "max_episode_steps": 3}, "leave it out: its 4 actions follow from"),
    ],
)
def test_what_is_around_a_registered_environment_is_not_lost(registration, says, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(gym.registry, "Around-v0", None)
    del gym.registry["Around-v0"]
    gym.register("Around-v0", **registration, kwargs={"task": made_up("own")})
    with pytest.raises(ValueError, match="'Around-v0' is registered with") as raised:
        compared(tmp_path, env="Around-v0", task=None, methods={"a": fixed("cross-entropy")})
    assert says in str(raised.value)


def test_two_objects_of_one_name_are_refused(tmp_path) -> None:
    class Aim:
        def __init__(self, at):
            self.at = np.asarray(at)

    def aiming(*places):
        candidates = tuple(Candidate(teacher={"aim": Aim(place)}) for place in places)
        return Method(candidates, lambda env, seed, options: Push(options["aim"].at.item()))

    with pytest.raises(ValueError, match="two objects called 'Aim' of different content"):
        compared(tmp_path, methods={"aim": aiming([0.1], [0.9])}, tune=None, seeds=1)
    with pytest.raises(ValueError, match="two objects called 'Aim' of different content"):
        compared(tmp_path, methods={"near": aiming([0.1]), "far": aiming([0.9])}, tune=None, seeds=1)
    compared(tmp_path, methods={"aim": aiming([0.1])}, tune=None, seeds=1, effort=ONE)
    with pytest.raises(ValueError, match="content of 'Aim' has changed since"):
        compared(tmp_path, methods={"aim": aiming([0.9])}, tune=None, seeds=1, effort=ONE)


def test_a_table_has_what_was_asked_for_whatever_else_the_folder_holds(tmp_path) -> None:
    def table(budget, seeds, rates=(0.01, 0.02)):
        effort = replace(EFFORT, student_steps=budget)
        method = {"rmd": meta.methods.rmd(learning_rate=list(rates))}
        return compared(tmp_path, methods=method, seeds=seeds, effort=effort, tune=None).table()

    def untimed(table):
        return [re.sub(r"\| \d+ \| lr", "| lr", line) for line in table.splitlines()]

    first = table(32, 2)
    assert untimed(table(64, 1)) != untimed(first)
    assert table(32, 2) == first
    other = table(32, 1, rates=(0.5, 0.6))
    assert "learning_rate 0.5" in other or "learning_rate 0.6" in other
    assert table(32, 2) == first


def test_a_best_fixed_loss_without_errors_leaves_the_ratio_out(tmp_path) -> None:
    y = np.arange(72) % 3
    x = np.eye(3, 4, dtype=np.float32)[y] * 30
    easy = teachenv.Task("easy", "made-up", (x[:60], y[:60]), (x[60:], y[60:]), 3)
    few = {"cross-entropy": fixed("cross-entropy"), "focal": fixed("focal")}
    report = compared(tmp_path, task=easy, methods=few, seeds=1, effort=ONE, horizon=20)
    assert "| cross-entropy (best fixed) | 0.00 | 0.00 |  |" in report.table()


def test_a_table_says_how_many_final_students_diverged(tmp_path) -> None:
    x, y = made_up().pool
    heavy = teachenv.Task("heavy", "made-up", (x, y), (x[:12], y[:12]), 3)
    few = {"cross-entropy": fixed("cross-entropy", weight_decay=[0.0]), "focal": fixed("focal", weight_decay=[1e30])}
    report = compared(tmp_path, task=heavy, methods=few, seeds=2, effort=ONE, tune={"learning_rate": [0.4]})
    said = "final students that diverged count as students that know nothing: 2 of 2 under focal"
    assert said in report.table()


def test_results_do_not_depend_on_global_generators(finished, tmp_path) -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    few = {"rmd": methods()["rmd"]}
    compared(tmp_path, methods=few)
    assert numbers(tmp_path) == {row for row in numbers(finished[0]) if row[0] == "rmd"}
