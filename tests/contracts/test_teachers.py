"""What all teachers do that `meta` and `agents` list in `__all__`, and all methods of their modules `methods`."""

import copy
import functools
import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

import agents
import agents.methods
import meta
import meta.methods
import teachenv
from agents.replay import ReplayTeacher
from meta import DataTeaching, InfluenceTeaching, Reweighting
from meta.saving import Resumable
from meta.teachers.fixed import FixedTeacher
from meta.wrappers.vec_env import as_vec_env
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.experiment import Effort
from teachenv.tasks.domains import Domains
from teachenv.teacher import Acts, Followed, HasActor, Learns, Resumes, lacking

HORIZON, TOTAL = 4, 16

# Of teachers that need another loss than "bilinear", by the wrapper that they look through.
ENVIRONMENTS = {
    DataTeaching: {"loss": "sample-weights"},
    InfluenceTeaching: {"loss": "distillation", "teacher": "mlp", "teacher_kwargs": {"hidden": [4]}},
    Reweighting: {"loss": "sample-weights", "loss_kwargs": {"normalise": True}},
}
# Of teachers that look through none.
SEEING = {
    "SelfPacedTeacher": {"loss": "sample-weights", "observe_samples": True},
    "DoReMi": {"loss": "domain-weights"},
}
# A student is good enough soon, so that there are rewards.
WRAPPED = {DataTeaching: {"threshold": 0.4}}
# By the class that a teacher is derived from; the others have no sizes.
OPTIONS = {
    ReplayTeacher: {"learning_starts": 4, "batch_size": 4, "buffer_size": 20, "policy_kwargs": {"net_arch": [8]}},
    agents.PPO: {"n_steps": 3, "batch_size": 3, "n_epochs": 1},  # rollouts that end in mid-episode
}


def concrete(kinds):
    """Those that are no other's base, by name."""
    return {k.__name__: k for k in kinds if not any(other is not k and issubclass(other, k) for other in kinds)}


CLASSES = [getattr(package, name) for package in (meta, agents) for name in package.__all__]
TEACHERS = concrete([kind for kind in CLASSES if inspect.isclass(kind) and issubclass(kind, Resumable)])
LEARNING = [name for name, kind in TEACHERS.items() if not issubclass(kind, FixedTeacher)]
each_teacher = pytest.mark.parametrize("name", TEACHERS)


@functools.cache
def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    inputs = rng.normal(size=(60, 5)) + rng.normal(size=(3, 5))[targets]
    domains = Domains(("few", "many"), (np.arange(50) % 5 > 0).astype(int))
    return Task("vectors", "made-up", (inputs[:50], targets[:50]), (inputs[50:], targets[50:]), 3, domains=domains)


def settings(wrapper=None):
    small = {"horizon": HORIZON, "batch_size": 6, "dev_size": 20, "student_kwargs": {"hidden": [4]}}
    return {"task": task(), "learning_rate": 0.3, **small, **ENVIRONMENTS.get(wrapper, {})}


def environment(name):
    wrapper = getattr(TEACHERS[name], "wrapper", None)
    if wrapper is None:
        return TeachVectorEnv(2, **settings() | SEEING.get(name, {}))
    return wrapper(TeachEnv(**settings(wrapper)), **WRAPPED.get(wrapper, {}))


def fresh(name, seed=3, policy=None, env=None):
    kind = TEACHERS[name]
    options = next((given for base, given in OPTIONS.items() if issubclass(kind, base)), {})
    if policy is None:
        policy = "AttentionPolicy" if "AttentionPolicy" in kind.policy_aliases else next(iter(kind.policy_aliases))
    return kind(policy, environment(name) if env is None else env, seed=seed, **copy.deepcopy(options))


def actor(teacher):
    return {name: tensor.clone() for name, tensor in teacher.actor_network.state_dict().items()}


def digest(teacher):
    """Of all that training moves."""
    tensors = {name: str(_plain(state)) for name, state in teacher.get_parameters().items()}
    counts = (teacher.num_timesteps, teacher._n_updates, teacher._episode_num)
    episodes = [(float(episode["r"]), int(episode["l"])) for episode in teacher.ep_info_buffer]
    return hashlib.sha256(json.dumps([tensors, counts, episodes]).encode()).hexdigest()


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


@functools.cache
def unbroken(name):
    return fresh(name).learn(TOTAL)


def go_on(name, path):
    again = TEACHERS[name].load(path, env=environment(name))
    return digest(again.learn(TOTAL - again.num_timesteps, reset_num_timesteps=False))


class Stop(BaseCallback):
    """Ends the training in mid-episode, and in mid-rollout where a rollout has several steps."""

    def _on_step(self):
        return self.n_calls < HORIZON + 1


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, in_new_process):
    """Digests of teachers that stopped in mid-training, and ended in a new process."""
    folder = tmp_path_factory.mktemp("stopped")
    for name in TEACHERS:
        stopped = fresh(name)
        stopped.learn(TOTAL, callback=Stop())
        stopped.save(folder / name)
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_teachers
print(json.dumps({{name: test_teachers.go_on(name, f"{{sys.argv[1]}}/{{name}}") for name in test_teachers.TEACHERS}}))
"""
    return json.loads(in_new_process(script, folder))


@each_teacher
def test_it_keeps_the_protocols(name):
    teacher = fresh(name)
    for protocol in (Acts, Learns, Followed, Resumes, HasActor):
        assert lacking(teacher, protocol) == []


@each_teacher
def test_learn_has_the_arguments_of_sb3(name):
    ours, theirs = (inspect.signature(kind.learn).parameters for kind in (TEACHERS[name], BaseAlgorithm))
    assert [*ours] == [*theirs]


@each_teacher
def test_learning_moves_its_whole_actor_or_nothing_of_a_teacher_that_learns_nothing(name):
    before, after = actor(fresh(name)), actor(unbroken(name))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == (set(before) if name in LEARNING else moved & {"draws"})
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert unbroken(name).num_timesteps >= TOTAL


@each_teacher
def test_training_is_a_function_of_the_seed(name):
    torch.manual_seed(7)
    assert digest(fresh(name).learn(TOTAL)) == digest(unbroken(name))
    if name in LEARNING and any(True for _ in fresh(name).policy.parameters()):  # what is drawn
        before, other = actor(fresh(name)), actor(fresh(name, seed=4))
        assert any(not torch.equal(before[key], other[key]) for key in before)


@each_teacher
def test_a_loaded_teacher_takes_the_same_actions_bitwise(name, tmp_path):
    teacher = unbroken(name)
    teacher.save(tmp_path / "teacher")
    observations = np.random.default_rng(0).random((5, *teacher.observation_space.shape)).astype(np.float32)
    before = copy.deepcopy(teacher.policy.state_dict())

    def taken(teacher):
        torch.manual_seed(0)  # one that drops samples at random draws from torch's generator
        return [teacher.predict(observations, deterministic=True)[0] for _ in range(2)]

    wanted = taken(teacher)
    teacher.policy.load_state_dict(before)  # a random one counts how often it was asked
    for env in (None, environment(name)):
        loaded = TEACHERS[name].load(tmp_path / "teacher", env=env)
        found = taken(loaded)
        assert found[0].dtype == wanted[0].dtype
        np.testing.assert_array_equal(found, wanted)
        assert loaded.num_timesteps == teacher.num_timesteps


@each_teacher
def test_a_training_that_stopped_ends_in_a_new_process_as_the_unbroken_one_bitwise(name, resumed):
    assert resumed[name] == digest(unbroken(name))


@pytest.mark.parametrize("name", [name for name, kind in TEACHERS.items() if getattr(kind, "wrapper", None) is None])
@pytest.mark.parametrize(("count", "stops"), [(1, False), (3, True)])
def test_another_number_of_students_is_refused_until_it_starts_anew(name, count, stops, tmp_path):
    teacher = fresh(name).learn(TOTAL, callback=Stop() if stops else None)
    teacher.save(tmp_path / "teacher")
    env = TeachVectorEnv(count, **settings() | SEEING.get(name, {}))
    loaded = TEACHERS[name].load(tmp_path / "teacher", env=env)
    with pytest.raises(
        ValueError, match=f"with 2 parallel environments, found {count}; .* anew with reset_num_timesteps=True"
    ):
        loaded.learn(TOTAL, reset_num_timesteps=False)
    assert loaded.learn(TOTAL).num_timesteps >= TOTAL
    loaded.save(tmp_path / "again")
    again = TEACHERS[name].load(tmp_path / "again", env=env)
    before = again.num_timesteps
    assert again.learn(TOTAL, reset_num_timesteps=False).num_timesteps >= before + TOTAL


@each_teacher
def test_another_total_is_refused_and_changes_nothing(name):
    teacher = fresh(name)
    for total in (-1, "10", None, 1.5, True):
        with pytest.raises(ValueError, match=f"total_timesteps must be an integer of at least 0, found {total!r}"):
            teacher.learn(total)
    assert digest(teacher.learn(TOTAL)) == digest(unbroken(name))
    assert digest(fresh(name).learn(float(TOTAL))) == digest(unbroken(name))
    # What is left of a training that took whole rollouts beyond its total.
    assert digest(teacher.learn(-1, reset_num_timesteps=False)) == digest(unbroken(name))


@each_teacher
@pytest.mark.filterwarnings("ignore:rich is experimental")  # SB3's progress bar; SB3 silences it when it is imported
def test_it_works_with_sb3s_callbacks_logger_and_progress_bar(name, tmp_path, capsys):
    teacher, env = fresh(name), environment(name)
    judged = as_vec_env(env) if isinstance(env, TeachVectorEnv) else Monitor(env)
    evaluation = EvalCallback(judged, n_eval_episodes=1, eval_freq=HORIZON, log_path=str(tmp_path), verbose=0)
    saving = CheckpointCallback(HORIZON, str(tmp_path / "saved"))
    teacher.set_logger(configure(str(tmp_path), ["csv"]))
    assert teacher.learn(2 * HORIZON, callback=[evaluation, saving], log_interval=1, progress_bar=True) is teacher
    teacher.logger.close()
    capsys.readouterr()
    assert len(list((tmp_path / "saved").iterdir())) >= 1
    assert np.isfinite(np.load(tmp_path / "evaluations.npz")["results"]).all()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps"} <= set(header)


@each_teacher
def test_unknown_policies_are_refused_with_a_suggestion(name):
    known = next(iter(TEACHERS[name].policy_aliases))
    with pytest.raises(ValueError, match=rf"unknown policy.*did you mean '{known}'\?"):
        fresh(name, policy=known.replace("Policy", "Polcy"))


@pytest.mark.parametrize("name", [name for name, kind in TEACHERS.items() if "SamplePolicy" in kind.policy_aliases])
def test_a_policy_for_samples_learns_where_they_are_observed_and_is_refused_elsewhere(name, tmp_path):
    with pytest.raises(ValueError, match=r"observe_samples=True, or take another policy"):
        fresh(name, policy="SamplePolicy")
    shown = TeachVectorEnv(2, **settings(), loss="sample-weights", observe_samples=True)
    teacher = fresh(name, policy="SamplePolicy", env=shown)
    before = actor(teacher)
    teacher.learn(TOTAL)
    assert any(not torch.equal(value, before[key]) for key, value in actor(teacher).items())
    teacher.save(tmp_path / "teacher.zip")
    observation = shown.reset(seed=0)[0]
    again = TEACHERS[name].load(tmp_path / "teacher.zip")
    assert np.array_equal(
        again.predict(observation, deterministic=True)[0], teacher.predict(observation, deterministic=True)[0]
    )


# --- methods of a comparison ------------------------------------------------------------------------------------------


def methods():
    """What the functions of the two modules make without options, by the function's name."""
    found = {}
    for module in (meta.methods, agents.methods):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function)
            optional = all(p.kind is p.VAR_KEYWORD or p.default is not p.empty for p in signature.parameters.values())
            if function.__module__ == module.__name__ and signature.return_annotation == "Method" and optional:
                found[name] = function()
    return found


METHODS = methods()
EFFORT = Effort(student_steps=16, parallel=2, rungs=(), points=1, students=1, final_students=2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, leave_undrawn):
    """Rows of all methods, compared in the environments that they need."""
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        leave_undrawn(patch)
        for wrapper in {method.wrapper for method in METHODS.values()}:
            some = {name: method for name, method in METHODS.items() if method.wrapper is wrapper}
            report = teachenv.compare(
                methods=some, seeds=1, effort=EFFORT, budget=16, out=tmp_path_factory.mktemp("compared"),
                backend="inline", equal_grids=False, **{"loss": "bilinear", **settings(wrapper)},
            )  # fmt: skip
            rows += report.rows
    return rows


@pytest.mark.parametrize("name", METHODS)
def test_a_comparison_trains_its_teacher_and_measures_students_under_it(name, compared):
    rows = {row.metric: row for row in compared if row.method == name}
    assert 0 <= rows["test_error"].value <= 1
    assert rows["dev_objective"].data["mean_action"] > 0
    assert rows["test_error"].student_steps == (16 if METHODS[name].learns else 0)


@pytest.mark.parametrize(
    "name", [name for name, kind in TEACHERS.items() if getattr(kind, "wrapper", None) is not None]
)
def test_a_teacher_that_looks_through_a_wrapper_refuses_vector_environments(name):
    envs = TeachVectorEnv(2, **settings(TEACHERS[name].wrapper))
    with pytest.raises(ValueError, match="goes around one TeachEnv, found a vector environment"):
        fresh(name, env=envs)
