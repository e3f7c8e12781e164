"""The teachers: their gradient, SB3's model API around them, and runs that go on from a checkpoint."""

import csv
import functools
import gc
import resource
import zipfile
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.logger as sb3_logger
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents import DDPG
from agents.replay import ReplayTeacher
from meta import (
    RMD,
    ActionGradient,
    ConstantTeacher,
    EvolutionStrategies,
    FiniteDifference,
    RandomTeacher,
    VectorActionGradient,
)
from meta.teachers.episodic import TaughtStudent
from meta.wrappers.vec_env import as_vec_env
from teachenv import LossFamily, Measure, Task, TeachEnv, TeachVectorEnv

HORIZON = 4


@functools.cache
def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    inputs = rng.normal(size=(90, 5)) + rng.normal(size=(3, 5))[targets]
    return Task("vectors", "made-up", (inputs[:80], targets[:80]), (inputs[80:], targets[80:]), 3)


def settings(**changes):
    return {"task": task(), "horizon": HORIZON, "batch_size": 8, "dev_size": 24, "learning_rate": 0.3} | changes


ENVIRONMENTS = {
    "single": lambda: TeachEnv(**settings()),
    "vector": lambda: TeachVectorEnv(3, **settings()),
    "dummy": lambda: DummyVecEnv([lambda: Monitor(ActionGradient(TeachEnv(**settings())))] * 2),
    "plain-dummy": lambda: DummyVecEnv([lambda: Monitor(TeachEnv(**settings()))] * 2),
    "id": lambda: "TestTeach-v0",
}
GRADIENT_TEACHERS = pytest.mark.parametrize("teacher", [RMD, FiniteDifference])


@pytest.fixture(autouse=True)
def _registered():
    gym.register("TestTeach-v0", entry_point="teachenv.env:TeachEnv", kwargs=settings())
    yield
    del gym.registry["TestTeach-v0"]


def make(teacher, policy, env, **options):
    if policy == "MlpPolicy" or issubclass(teacher, ReplayTeacher):
        options["policy_kwargs"] = {"net_arch": [16, 16]}
    if issubclass(teacher, ReplayTeacher):
        options = {"learning_starts": 4, "batch_size": 8, "buffer_size": 50} | options
    return teacher(policy, env, seed=0, **options)


def weights(model):
    return {name: p.detach().clone() for name, p in model.policy.state_dict().items()}


def assert_equal_weights(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@contextmanager
def logged(model, folder):
    """Logs to a file, and gives a list that is filled with its rows at the end."""
    rows = []
    model.set_logger(sb3_logger.configure(str(folder), ["csv"]))
    yield rows
    model.logger.close()
    with open(folder / "progress.csv") as file:
        rows += csv.DictReader(file)


def observations(count=5):
    return np.random.default_rng(0).random((count, 6)).astype(np.float32)


# --- the gradient -----------------------------------------------------------------------------------------------------


def mean_return(env, actions):
    """Of the students of env's seeds under given actions, (students, actions, n)."""
    total = 0.0
    for seed, own in enumerate(actions):
        env.reset(seed=seed)
        total += sum(env.step(np.clip(action, -1, 1))[1] for action in own)
    return total / len(actions)


@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
def test_the_teachers_gradient_is_the_slope_of_the_mean_return(policy):
    """With respect to θ, its observations held."""
    options = settings(dtype="float64", learning_rate=0.1)
    model = make(RMD, policy, TeachEnv(**options), students_per_update=2, max_grad_norm=None)
    for parameter in model.policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    env = ActionGradient(TeachEnv(**options))
    students, seen = [], []
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        rewards = np.zeros(HORIZON)
        seen.append([])
        for step in range(HORIZON):
            seen[-1].append(observation)
            observation, rewards[step], *_, info = env.step(model.predict(observation)[0])
        students.append(TaughtStudent(np.stack(seen[-1]), rewards, info))
    kept = [p.detach().clone() for p in model.policy.parameters()]

    def actions():
        with torch.no_grad():
            return [model.policy(torch.as_tensor(np.stack(own))).numpy() for own in seen]

    wanted = []
    torch.manual_seed(1)
    directions = [torch.randn_like(p) for p in kept]
    for part in [*range(len(kept)), None]:
        values = []
        for distance in (1e-5, -1e-5):
            for i, (p, k, d) in enumerate(zip(model.policy.parameters(), kept, directions, strict=True)):
                p.data = k + distance * d * (part is None or i == part)
            values.append(mean_return(env.unwrapped, actions()))
        wanted.append((values[0] - values[1]) / 2e-5)
    for p, k in zip(model.policy.parameters(), kept, strict=True):
        p.data = k.clone()
    model.set_logger(sb3_logger.Logger(None, []))
    model._improve(students)
    slopes = [-float((p.grad * d).sum()) for p, d in zip(model.policy.parameters(), directions, strict=True)]
    np.testing.assert_allclose([*slopes, sum(slopes)], wanted, rtol=1e-5, atol=1e-9)


class _Memory(BaseCallback):
    """Tensors alive, and resident bytes where the system tells, before some updates."""

    def __init__(self):
        super().__init__()
        self.updates, self.tensors, self.resident = 0, [], []

    def _on_rollout_start(self):
        self.updates += 1
        # SB3 keeps the last 100 episodes' returns, and steps are recorded at their 51st call.
        if self.updates not in (60, 70, 80):
            return
        gc.collect()
        self.tensors.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
        if Path("/proc/self/statm").exists():
            self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    def _on_step(self):
        return True


@GRADIENT_TEACHERS
def test_eighty_updates_leave_memory_flat(teacher):
    memory = _Memory()
    make(teacher, "AttentionPolicy", TeachVectorEnv(3, **settings())).learn(80 * 3 * HORIZON, callback=memory)
    assert memory.updates == 80
    assert len(memory.tensors) == 3
    assert len(set(memory.tensors)) == 1
    # A kept graph, or kept states (3 kB each), would add up to more, allocator's noise to less.
    assert not memory.resident or memory.resident[-1] - memory.resident[0] < 2**19


def backwards(remaining):
    return 1 + (HORIZON - 1) * (1 - remaining)


@GRADIENT_TEACHERS
@pytest.mark.parametrize("kind", ["single", "vector", "plain-dummy"])
def test_a_truncated_teacher_follows_the_last_steps_as_far_as_its_schedule_says(teacher, kind, tmp_path):
    if kind == "plain-dummy":
        env = DummyVecEnv([lambda: Monitor(ActionGradient(TeachEnv(**settings()), teacher.method))])
    else:
        env = ENVIRONMENTS[kind]()
    model = make(teacher, "AttentionPolicy", env, last=backwards)
    seen = []
    model._improve = lambda students: seen.append(students[0].info["action_gradient"])
    updates = 4
    model.learn(updates * HORIZON * model.env.num_envs)
    # A quarter of the budget goes by between updates: the remaining progress is 1, 3/4, 1/2, 1/4.
    assert [int(gradient.any(1).sum()) for gradient in seen] == [1, 2, 2, 3]
    assert all(not gradient[: -int(gradient.any(1).sum())].any() for gradient in seen)
    model = make(teacher, "AttentionPolicy", ENVIRONMENTS["single"](), last=2)
    with logged(model, tmp_path) as rows:
        model.learn(HORIZON)
    assert [row["train/differentiated_steps"] for row in rows] == ["2"]
    model.save(tmp_path / "model")
    assert teacher.load(tmp_path / "model", env=ENVIRONMENTS["single"]()).last == 2


def test_a_truncation_longer_than_the_training_is_refused():
    model = make(RMD, "AttentionPolicy", TeachEnv(**settings()), last=HORIZON + 1)
    with pytest.raises(ValueError, match=f"found last={HORIZON + 1}, expected 1 to {HORIZON}"):
        model.learn(HORIZON)


@GRADIENT_TEACHERS
@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
def test_every_parameter_of_a_new_teacher_has_a_gradient(teacher, policy):
    model = make(teacher, policy, TeachEnv(**settings()))
    model.learn(HORIZON)
    for name, parameter in model.policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@GRADIENT_TEACHERS
def test_small_updates_raise_the_return(teacher):
    options = settings(dtype="float64", learning_rate=0.05, resplit=False)
    model = teacher("AttentionPolicy", TeachEnv(**options), learning_rate=2e-3, seed=0)
    env = TeachEnv(**options)

    def value():
        observation, info = env.reset(seed=7)
        before = info["objective"]
        for _ in range(HORIZON):
            observation, *_, info = env.step(model.predict(observation, deterministic=True)[0])
        return info["objective"] - before

    values = [value()]
    for _ in range(5):
        model.env.seed(7)
        model.learn(HORIZON)  # each begins with a reset, to the same student
        values.append(value())
    assert np.all(np.diff(values) > 0)


def test_an_update_averages_over_its_students():
    gradients = []
    for students in (1, 2):
        model = make(RMD, "AttentionPolicy", TeachEnv(**settings(dtype="float64")), max_grad_norm=None)
        model.students_per_update = students
        model.env.seed(0)
        model.learn(HORIZON * students)
        gradients.append([p.grad.clone() for p in model.policy.parameters()])
    # The second student alone: skip the first.
    model = make(RMD, "AttentionPolicy", TeachEnv(**settings(dtype="float64")), max_grad_norm=None)
    model.env.seed(0)
    model.env.reset()
    model._setup_learn(HORIZON)
    model.env.seed(0)
    model._last_obs = model.env.reset()
    model._collect(model._init_callback(None))
    model._improve(model._collect(model._init_callback(None)))
    for one, both, p in zip(*gradients, model.policy.parameters(), strict=True):
        torch.testing.assert_close(both, (one + p.grad) / 2, rtol=1e-6, atol=1e-12)


def test_vector_and_single_environments_train_the_same_teacher():
    found = []
    for env in (TeachVectorEnv(3, **settings()), DummyVecEnv([lambda: ActionGradient(TeachEnv(**settings()))] * 3)):
        model = make(RMD, "AttentionPolicy", env).learn(3 * HORIZON * 3)
        assert model.num_timesteps == 3 * HORIZON * 3
        assert model._n_updates == 3
        found.append(weights(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-3)
    start = weights(make(RMD, "AttentionPolicy", TeachEnv(**settings())))
    assert max((found[0][name] - start[name]).abs().max() for name in start) > 2e-2


def test_updates_are_clipped_and_scheduled(tmp_path):
    norms = []
    for limit in (None, 1e-6):
        model = make(RMD, "AttentionPolicy", TeachEnv(**settings()), max_grad_norm=limit)
        model.learn(HORIZON)
        norms.append(torch.cat([p.grad.flatten() for p in model.policy.parameters()]).norm().item())
    assert norms[0] > 1e-4
    assert norms[1] == pytest.approx(1e-6, rel=1e-3)
    model = make(RMD, "AttentionPolicy", TeachEnv(**settings()), learning_rate=lambda remaining: 0.1 * remaining)
    with logged(model, tmp_path) as rows:
        model.learn(4 * HORIZON)
    rates = [float(row["train/learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025], atol=1e-12)


class BrokenGradient(gym.Wrapper):
    """Makes every second gradient useless."""

    count = 0
    value = np.nan

    def step(self, action):
        *rest, info = self.env.step(action)
        if "action_gradient" in info:
            self.count += 1
            if self.count % 2:
                info["action_gradient"] = np.full_like(info["action_gradient"], self.value)
        return *rest, info


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_skips_its_student_and_is_logged(value, tmp_path):
    env = BrokenGradient(ActionGradient(TeachEnv(**settings())))
    env.value = value
    model = make(RMD, "AttentionPolicy", env)
    start = weights(model)
    with logged(model, tmp_path) as rows:
        model.learn(HORIZON)
        assert_equal_weights(weights(model), start)
        model.learn(HORIZON, reset_num_timesteps=False)
        assert not torch.equal(weights(model)["actor.keys.weight"], start["actor.keys.weight"])
        model.students_per_update = 4
        model.learn(4 * HORIZON, reset_num_timesteps=False)
    assert [row["train/skipped_students"] for row in rows] == ["1", "0", "2"]
    assert all(p.isfinite().all() for p in weights(model).values())


@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_gradient_whose_norm_overflows_does_not_poison_the_teacher(limit):
    env = BrokenGradient(ActionGradient(TeachEnv(**settings())))
    env.value = 3e38
    model = make(RMD, "AttentionPolicy", env, max_grad_norm=limit)
    start = weights(model)
    model.learn(HORIZON)
    assert_equal_weights(weights(model), start)


def test_a_diverging_student_is_left_out(tmp_path):
    env = TeachEnv(**settings(learning_rate=1e38))
    model = make(RMD, "AttentionPolicy", env)
    start = weights(model)
    with logged(model, tmp_path) as rows:
        model.learn(2)
    assert_equal_weights(weights(model), start)
    assert all(row["train/skipped_students"] == "1" for row in rows)
    assert all(np.isfinite(float(row["train/objective"])) for row in rows)


@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
def test_double_precision_environments_have_double_precision_teachers(policy):
    model = make(RMD, policy, TeachVectorEnv(2, **settings(dtype="float64"))).learn(HORIZON * 4)
    assert all(p.dtype == torch.float64 for p in model.policy.parameters())
    assert model.predict(model.observation_space.sample())[0].dtype == np.float64


# --- SB3's model API --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "vector", "dummy", "id"])
@pytest.mark.parametrize(
    ("teacher", "policy"),
    [
        (RMD, "AttentionPolicy"),
        (DDPG, "MlpPolicy"),
    ],
)
@pytest.mark.filterwarnings("ignore:rich is experimental")  # SB3's progress bar; SB3 silences it when it is imported
def test_learning_with_sb3s_callbacks_logger_and_progress_bar(teacher, policy, kind, tmp_path, capsys):
    model = make(teacher, policy, ENVIRONMENTS[kind]())
    eval_env = as_vec_env(TeachVectorEnv(2, **settings())) if kind == "vector" else Monitor(TeachEnv(**settings()))
    callbacks = [
        EvalCallback(eval_env, n_eval_episodes=2, eval_freq=10, log_path=str(tmp_path), verbose=0),
        CheckpointCallback(5, str(tmp_path / "saved"), save_replay_buffer=True),
    ]
    with logged(model, tmp_path) as rows:
        assert model.learn(30, callback=callbacks, log_interval=1, progress_bar=True) is model
    capsys.readouterr()
    assert model.num_timesteps >= 30
    assert np.load(tmp_path / "evaluations.npz")["results"].shape[1] == 2
    assert any(path.suffix == ".zip" for path in (tmp_path / "saved").iterdir())
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix == ".part"]
    columns = set().union(*rows)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps"} <= columns
    if teacher is RMD:
        ours = ("gradient_norm", "learning_rate", "objective", "skipped_students", "n_updates")
        assert {f"train/{name}" for name in ours} <= columns
    mean, deviation = evaluate_policy(model, eval_env, n_eval_episodes=2)
    assert np.isfinite([mean, deviation]).all()
    model.set_random_seed(3)

    one, _ = model.predict(observations()[0])
    many, state = model.predict(observations(), deterministic=True)
    assert (one.shape, many.shape, state) == ((9,), (5, 9), None)
    assert np.abs(many).max() <= 1


TEACH = """
import sys
import gymnasium as gym, teachenv, agents, meta

def taught(kind, path):
    env = gym.make("TeachDigits-v0", horizon=12, steps_per_action=2, learning_rate=0.4).unwrapped
    teacher = getattr(agents if kind == "DDPG" else meta, kind).load(path)
    observation, ended = env.reset(seed=5)[0], False
    while not ended:
        observation, _, ended, _, _ = env.step(teacher.predict(observation, deterministic=True)[0])
    return [(n, t.numpy().tobytes().hex()) for n, t in env.student.parameters.items()], env.evaluate("test")
"""


def test_saved_teachers_teach_the_same_student_bitwise_in_another_process(in_new_process, tmp_path):
    env = gym.make("TeachDigits-v0", horizon=12, steps_per_action=2, learning_rate=0.4)
    here, found = {}, []
    exec(TEACH, here)
    for teacher in (RMD, DDPG):
        path = tmp_path / teacher.__name__
        make(teacher, "AttentionPolicy", env).learn(18).save(path)
        found.append(here["taught"](teacher.__name__, path))
        make(teacher, "AttentionPolicy", env).save(tmp_path / "untaught")
        assert here["taught"](teacher.__name__, tmp_path / "untaught") != found[-1]
    script = TEACH + "print([taught(kind, f'{sys.argv[1]}/{kind}') for kind in sys.argv[2:]])"
    elsewhere = in_new_process(script, tmp_path, "RMD", "DDPG")
    assert elsewhere.strip() == str(found)


def test_options_of_the_constant_and_the_random_teacher():
    constant = ConstantTeacher("ConstantPolicy", TeachEnv(**settings()), policy_kwargs={"action": -0.5})
    np.testing.assert_array_equal(constant.predict(observations())[0], np.full((5, 9), -0.5))
    first, second = (
        RandomTeacher("RandomPolicy", TeachEnv(**settings()), policy_kwargs={"seed": seed}) for seed in (1, 2)
    )
    assert not np.array_equal(first.predict(observations())[0], second.predict(observations())[0])


def test_the_neutral_teachers_return_is_the_plain_students():
    env = TeachEnv(**settings(resplit=False))
    model = ConstantTeacher("ConstantPolicy", env)
    vec_env = model.get_env()
    vec_env.seed(4)
    mean, _ = evaluate_policy(model, vec_env, n_eval_episodes=1)
    other = TeachEnv(**settings(resplit=False))
    other.reset(seed=4)
    wanted = sum(other.step(np.zeros(9, dtype=np.float32))[1] for _ in range(HORIZON))
    assert mean == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"students_per_update": 0}, "students_per_update must be an integer of at least 1"),
        ({"students_per_update": 2.0}, "students_per_update must be"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"learning_rate": "0.1"}, "learning_rate must be"),
        ({"learning_rate": -1e-3}, "learning_rate must be"),
        ({"last": True}, "last must be"),
        ({"last": 2.5}, "last must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RMD("AttentionPolicy", TeachEnv(**settings()), **options)


def test_environments_without_an_action_gradient_are_refused():
    with pytest.raises(TypeError, match="found PendulumEnv"):
        RMD("AttentionPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match=r"wrap the environments of your VecEnv in meta\.ActionGradient"):
        RMD("AttentionPolicy", DummyVecEnv([lambda: TeachEnv(**settings())])).learn(HORIZON)


@pytest.mark.parametrize("vector", [False, True])
def test_an_environment_that_is_wrapped_already_keeps_its_method(vector):
    if vector:
        wrapped = VectorActionGradient(TeachVectorEnv(2, **settings()), "finite-difference")
    else:
        wrapped = ActionGradient(TeachEnv(**settings()), "finite-difference")
    model = RMD("AttentionPolicy", wrapped)
    inner = model.env.venv.venv if vector else model.env.envs[0].env
    assert inner is wrapped


# --- checkpoints ------------------------------------------------------------------------------------------------------


def optimizer_states(model):
    """All tensors in the optimisers."""
    owners = [model.actor, model.critic] if isinstance(model, ReplayTeacher) else [model.policy]
    moments = [m for owner in owners for m in owner.optimizer.state_dict()["state"].values()]
    return {f"{i}-{name}": value for i, m in enumerate(moments) for name, value in m.items()}


class StopAfter(BaseCallback):
    """Ends the training after so many calls of step."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def _on_step(self):
        return self.n_calls < self.calls


STOPPED = {
    "rmd": (RMD, {"learning_rate": lambda remaining: 0.05 * remaining}),
    "rmd-6-students": (RMD, {"students_per_update": 6}),
    "evolution-strategies": (EvolutionStrategies, {"students_per_update": 5}),
    "ddpg-full-buffer": (DDPG, {"buffer_size": 20, "train_freq": 3, "gradient_steps": 2}),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # One of each of the two ways to collect in every environment; what differs besides is in one or two of them.
        *((name, kind) for name in ("rmd", "ddpg-full-buffer") for kind in ("single", "vector", "dummy")),
        *(("evolution-strategies", kind) for kind in ("single", "vector")),
        ("rmd-6-students", "vector"),
    ],
)
def test_a_run_resumed_from_a_checkpoint_ends_as_if_it_had_not_stopped(name, kind, tmp_path):
    teacher, options = STOPPED[name]
    total = 24 * {"single": 1, "vector": 3, "dummy": 2}[kind]

    def environment():
        return ENVIRONMENTS["plain-dummy" if issubclass(teacher, ReplayTeacher) and kind == "dummy" else kind]()

    def fresh():
        return make(teacher, "AttentionPolicy", environment(), **options)

    whole = fresh().learn(total)
    # Saved after 10 calls of step: in mid-episode (4 steps each), in mid-update, in mid-rollout.
    stopped = [CheckpointCallback(10, str(tmp_path), name_prefix="c"), StopAfter(10)]
    fresh().learn(total, callback=stopped)
    (steps,) = (int(path.stem.split("_")[1]) for path in tmp_path.glob("c_*_steps.zip"))
    np.random.seed(99)  # noqa: NPY002 - what a new process would not have either
    torch.manual_seed(99)
    resumed = teacher.load(tmp_path / f"c_{steps}_steps", env=environment(), trust=True)
    assert 0 < resumed.num_timesteps + 1 <= steps
    # A checkpoint that is saved again before training goes on is as good.
    resumed.save(tmp_path / "again")
    resumed = teacher.load(tmp_path / "again", env=environment(), trust=True)
    resumed.learn(total - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert resumed._n_updates == whole._n_updates
    assert resumed._episode_num == whole._episode_num
    assert_equal_weights(weights(resumed), weights(whole))
    assert_equal_weights(optimizer_states(resumed), optimizer_states(whole))
    if issubclass(teacher, ReplayTeacher):
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            found, wanted = (getattr(model.replay_buffer, name) for model in (resumed, whole))
            np.testing.assert_array_equal(found, wanted)
    assert [e["l"] for e in resumed.ep_info_buffer] == [e["l"] for e in whole.ep_info_buffer]
    np.testing.assert_array_equal([e["r"] for e in resumed.ep_info_buffer], [e["r"] for e in whole.ep_info_buffer])


class Target(gym.Env):
    """One action, and a return whose gradient is known."""

    observation_space = gym.spaces.Box(0, 1, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (4,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([0.2, 0.5, 0.9], dtype=np.float32), {}

    def step(self, action):
        reward = -float(np.square(action - 0.3).sum())
        return np.zeros(3, dtype=np.float32), reward, True, False, {"objective": reward}


def test_evolution_strategies_estimate_the_gradient_of_the_return():
    """With m pairs and d parameters, the cosine of estimate and gradient is about √(m/(m + d))."""
    pairs = 200
    env = DummyVecEnv([lambda: Monitor(Target())] * pairs)
    model = make(EvolutionStrategies, "AttentionPolicy", env, sigma=0.05, max_grad_norm=None, learning_rate=0.0)
    model.learn(1)
    found = torch.cat([p.grad.flatten() for p in model.policy.parameters()])
    action = model.policy(torch.tensor([[0.2, 0.5, 0.9]]))
    model.policy.zero_grad()
    (action - 0.3).square().sum().backward()
    wanted = torch.cat([p.grad.flatten() for p in model.policy.parameters()])
    expected = (pairs / (pairs + len(wanted))) ** 0.5
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.9 * expected
    assert float(found.norm() / wanted.norm()) == pytest.approx(1 / expected, rel=0.2)


class Steps(gym.Env):
    """Four actions, and rewards of which each is of the last action alone, or of the last two."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    seen = np.array([[0.2, 0.5], [0.8, 0.1], [0.4, 0.4], [0.1, 0.9]], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._taken = [0.0]
        return self.seen[0], {}

    def step(self, action):
        self._taken.append(float(action[0]))
        number = len(self._taken) - 1
        reward = (number * self._taken[-1]) + self._taken[-1] * self._taken[-2]
        return self.seen[number % 4], reward, number == 4, False, {"objective": reward}


@pytest.mark.parametrize("window", [1, 2, 3, 4, 9])
def test_persistent_evolution_strategies_estimate_the_gradient_of_the_return(window):
    pairs = 600
    env = DummyVecEnv([lambda: Monitor(Steps())] * pairs)
    model = make(
        EvolutionStrategies, "AttentionPolicy", env, sigma=0.05, max_grad_norm=None, learning_rate=0.0, window=window
    )
    model.learn(1)
    found = torch.cat([p.grad.flatten() for p in model.policy.parameters()])
    actions = model.policy(torch.tensor(Steps.seen)).flatten()
    before = torch.cat([torch.zeros(1), actions[:-1]])
    model.policy.zero_grad()
    (-(torch.arange(1, 5) * actions + actions * before).sum()).backward()
    wanted = torch.cat([p.grad.flatten() for p in model.policy.parameters()])
    # Noise of several windows adds up: the variance of an estimate is up to four times that of one window.
    windows = -(-4 // window)
    expected = (pairs / (pairs + windows * len(wanted))) ** 0.5
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.9 * expected
    assert float(found.norm() / wanted.norm()) == pytest.approx(1 / expected, rel=0.25)


def test_evolution_strategies_find_the_best_action():
    env = DummyVecEnv([lambda: Monitor(Target())] * 8)
    model = make(EvolutionStrategies, "AttentionPolicy", env, learning_rate=0.1, sigma=0.1).learn(16 * 60)
    np.testing.assert_allclose(model.predict(np.array([0.2, 0.5, 0.9], dtype=np.float32))[0], 0.3, atol=0.1)


def test_the_two_of_a_pair_teach_the_same_student():
    model = make(EvolutionStrategies, "AttentionPolicy", TeachVectorEnv(3, **settings()), sigma=1e-9)
    seen = []
    model._improve = seen.append
    model.learn(1)
    objectives = [student.info["objective"] for student in seen[0]]
    np.testing.assert_allclose(objectives[:3], objectives[3:], rtol=1e-5)
    assert len(set(objectives[:3])) == 3


@pytest.mark.parametrize(
    "option",
    [{name: value} for name in ("sigma", "max_grad_norm") for value in (0.0, -1, float("nan"), "1", True)],
    ids=str,
)
def test_evolution_strategies_refuse_what_is_not_positive(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be a finite number above 0, found"):
        make(EvolutionStrategies, "AttentionPolicy", TeachEnv(**settings()), **option)


@pytest.mark.parametrize("teacher", [RMD, DDPG])
def test_learning_in_two_parts_is_learning_at_once(teacher):
    whole = make(teacher, "AttentionPolicy", TeachEnv(**settings())).learn(32)
    parts = make(teacher, "AttentionPolicy", TeachEnv(**settings())).learn(12)
    parts.learn(20, reset_num_timesteps=False)
    assert_equal_weights(weights(parts), weights(whole))


class Stop(BaseCallback):
    def __init__(self, after, error=None):
        super().__init__()
        self.after, self.error = after, error

    def _on_step(self):
        if self.error is not None and self.n_calls >= self.after:
            raise self.error
        return self.n_calls < self.after


@pytest.mark.parametrize("kind", ["single", "vector"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_learning_goes_on_after_an_interruption_in_mid_episode(kind, error, tmp_path):
    model = make(RMD, "AttentionPolicy", ENVIRONMENTS[kind]())
    try:
        model.learn(100, callback=Stop(HORIZON + 2, error))
    except KeyboardInterrupt:
        assert error is not None
    assert model._n_updates == 1
    model.save(tmp_path / "stopped")
    model.learn(4 * HORIZON, reset_num_timesteps=False)
    resumed = RMD.load(tmp_path / "stopped", env=ENVIRONMENTS[kind]())
    resumed.learn(4 * HORIZON * resumed.n_envs, reset_num_timesteps=False)
    assert resumed._n_updates == 5
    whole = make(RMD, "AttentionPolicy", ENVIRONMENTS[kind]()).learn(5 * HORIZON * resumed.n_envs)
    assert_equal_weights(weights(resumed), weights(whole))


def test_sb3s_stopping_callback_stops_at_its_number_of_episodes():
    model = make(RMD, "AttentionPolicy", TeachEnv(**settings()))
    model.learn(1000, callback=StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps == 3 * HORIZON


@pytest.mark.parametrize("teacher", [RMD, DDPG])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: TeachEnv(**settings(momentum=0.5)), "momentum: 0.9 there, 0.5 here"),
        (lambda: TeachVectorEnv(3, **settings()), "1 parallel environments, found 3"),
        (lambda: TeachEnv(**settings(loss="mixture")), "Action spaces do not match"),
    ],
    ids=["settings", "number", "spaces"],
)
def test_a_checkpoint_of_another_environment_is_refused(teacher, other, message, tmp_path):
    make(teacher, "AttentionPolicy", TeachEnv(**settings())).learn(2 * HORIZON).save(tmp_path / "teacher")

    def resume():
        teacher.load(tmp_path / "teacher", env=other()).learn(HORIZON, reset_num_timesteps=False)

    with pytest.raises(ValueError, match=message):
        resume()


def test_a_teacher_can_start_anew_in_another_environment(tmp_path):
    make(RMD, "AttentionPolicy", TeachEnv(**settings())).learn(2 * HORIZON).save(tmp_path / "teacher")
    model = RMD.load(tmp_path / "teacher", env=TeachEnv(**settings(momentum=0.5)))
    assert model.learn(HORIZON).num_timesteps == HORIZON


@pytest.mark.parametrize("teacher", [RMD, DDPG])
def test_saving_leaves_the_old_file_when_it_fails(teacher, tmp_path, monkeypatch):
    model = make(teacher, "AttentionPolicy", TeachEnv(**settings())).learn(2 * HORIZON)
    model.save(tmp_path / "teacher.zip")
    before = (tmp_path / "teacher.zip").read_bytes()

    def full(*_args, **_kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="no space left"):
            model.save(tmp_path / "teacher")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.zip"]
    assert (tmp_path / "teacher.zip").read_bytes() == before
    with open(tmp_path / "file.zip", "wb") as file:
        model.save(file)
    np.testing.assert_array_equal(
        teacher.load(tmp_path / "file").predict(observations())[0], model.predict(observations())[0]
    )


# --- bring your own ---------------------------------------------------------------------------------------------------


class OwnNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 5) * 0.1)

    def forward(self, x):
        return torch.sin(x) @ self.table.T


@pytest.mark.parametrize("teacher", [RMD, FiniteDifference, DDPG])
@pytest.mark.parametrize("vector", [False, True])
def test_own_task_student_and_loss_are_taught(teacher, vector):
    own = own_settings()
    env = TeachVectorEnv(2, **own) if vector else TeachEnv(**own)
    model = make(teacher, "AttentionPolicy", env)
    start = weights(model)
    model.learn(8 * HORIZON)
    for name, value in weights(model).items():
        assert not torch.equal(value, start[name]), name


class OwnMeasure(Measure):
    def objective(self, outputs, targets):
        return -(outputs - targets).square().mean()

    def score(self, outputs, targets):
        return torch.exp(-(outputs - targets).abs().mean())


class OwnLoss(LossFamily):
    def action_size(self, num_outputs, batch_size):
        return num_outputs

    def __call__(self, action, prediction, targets):
        squares = (prediction.outputs - targets).square().mean(0)
        return squares.mean() + 0.5 * (action * squares).mean()


def own_settings():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 5))
    targets = np.sin(inputs) @ rng.normal(size=(5, 3))
    own = Task("sine", "made-up", (inputs[:50], targets[:50]), (inputs[50:], targets[50:]), 3, measure=OwnMeasure())
    return {
        "task": own,
        "student": OwnNetwork,
        "loss": OwnLoss(),
        "horizon": HORIZON,
        "batch_size": 8,
        "dev_size": 20,
    }


def test_the_gradient_of_an_own_task_student_and_loss_is_right():
    env = TeachEnv(**own_settings(), dtype="float64")
    rng = np.random.default_rng(0)
    actions, direction = rng.uniform(-0.5, 0.5, (HORIZON, 3)), rng.normal(size=(HORIZON, 3))
    wrapped = ActionGradient(env)
    wrapped.reset(seed=0)
    for action in actions:
        *_, info = wrapped.step(action)
    slope = np.diff([mean_return(env, [actions + h * direction]) for h in (-1e-5, 1e-5)])[0] / 2e-5
    assert slope == pytest.approx((info["action_gradient"] * direction).sum(), rel=1e-6)
