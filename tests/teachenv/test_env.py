"""The contract of the environments, over the whole registry."""

import functools
import json
import os
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
import torchvision.datasets
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import nn

import teachenv
from teachenv.losses import make_loss
from teachenv.registration import ENVIRONMENTS
from teachenv.tasks import synthetic

SYNTHETIC = {"dataset": "synthetic", "pool_size": 40, "dev_size": 8, "batch_size": 4, "horizon": 3}
SMALL = {
    "TeachDigits-v0": {"dev_size": 50, "batch_size": 8, "horizon": 3},
    "TeachDistill-v0": {"dev_size": 50, "batch_size": 8, "horizon": 3},
    "TeachDetection-v0": {
        "pool_size": 40,
        "dev_size": 8,
        "batch_size": 4,
        "horizon": 3,
        "task_kwargs": {"image_size": 32},
        "student_kwargs": {"width": 4},
        "learning_rate": 0.02,
    },
    "TeachSegmentation-v0": {
        "pool_size": 40,
        "dev_size": 8,
        "batch_size": 4,
        "horizon": 3,
        "task_kwargs": {"image_size": [24, 24]},
        "student_kwargs": {"width": 4},
    },
    "TeachTranslation-v0": {
        "pool_size": 60,
        "dev_size": 8,
        "dev_measured": 8,
        "batch_size": 4,
        "horizon": 3,
        "steps_per_action": 1,
        "student_kwargs": {"width": 8},
    },
    "TeachLanguage-v0": {
        "pool_size": 40,
        "task_kwargs": {"length": 5, "dev_documents": 8, "test_documents": 8},
        "batch_size": 4,
        "horizon": 3,
        "steps_per_action": 1,
        "student_kwargs": {"width": 8},
    },
    "TeachCIFAR-v0": SYNTHETIC,
    "TeachCIFAR100-v0": SYNTHETIC | {"student": "lenet"},
}
FROM_FILES = {"TeachMNIST-v0": {"horizon": 3, "dev_size": 50}, "TeachCIFAR-v0": {"horizon": 2, "dev_size": 20}}
SMALL = {name: SMALL.get(name, {"horizon": 3}) for name in ENVIRONMENTS if name in SMALL or name not in FROM_FILES}
FAMILIES = {name: family for name in teachenv.LOSSES if not (family := make_loss(name)).of_pairs}
INFO = {
    "objective": float,
    "dev_accuracy": float,
    "train_accuracy": float,
    "train_loss": float,
    "learning_rate": float,
    "student_step": int,
    "diverged": bool,
    "task": str,
    "dataset": str,
}


@pytest.fixture(autouse=True)
def few_test_images(monkeypatch, few_scenes):
    """Most of the time that an environment of procedural images takes to make is for its test samples."""
    monkeypatch.setattr(synthetic, "make_synthetic", functools.partial(synthetic.make_synthetic, test_size=20))


def losses_of(name):
    """The families that go with an environment."""
    if "teacher" in ENVIRONMENTS[name]:
        return ["distillation"]
    # Large-margin softmax, one of the mixture's, works on a last linear layer, which networks of many decisions lack.
    many = name in ("TeachSegmentation-v0", "TeachDetection-v0", "TeachTranslation-v0", "TeachLanguage-v0")
    domains = name == "TeachLanguage-v0"
    fit = {loss: family for loss, family in FAMILIES.items() if domains or not family.of_domains}
    return [loss for loss, family in fit.items() if not (many and family.needs_head)]


def make(name="TeachDigits-v0", **kwargs):
    return gym.make(name, **(SMALL[name] | kwargs))


def roll(env, steps=None, seed=0):
    """Random actions until the end (or for some steps): observations, rewards, infos."""
    rng, observations, rewards, infos = np.random.default_rng(seed), [], [], []
    ended = False
    while not ended and (steps is None or len(rewards) < steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype)
        observation, reward, ended, truncated, info = env.step(action)
        assert not truncated
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
    return np.array(observations), np.array(rewards), infos


def assert_follows_the_contract(env):
    """An episode of random actions."""
    observation, info = env.reset(seed=1)
    objective = info["objective"]
    assert info["train_loss"] == 0.0
    assert info["student_step"] == 0
    observations, rewards, infos = roll(env)
    fields, settings = env.unwrapped.OBSERVATION_FIELDS, env.unwrapped.problem.settings
    assert env.observation_space.shape == (len(fields),)
    named = {"translation": "bleu", "segmentation": "miou", "detection": "box_accuracy"}
    named |= {"language": "likelihood"}
    score = named.get(settings.task, "accuracy")
    assert fields[:3] == ("progress", f"train_{score}", f"dev_{score}")
    for step, (o, i) in enumerate(zip([observation, *observations], [info, *infos], strict=True)):
        assert env.observation_space.contains(o)
        assert o.dtype == env.observation_space.dtype == np.dtype(settings.dtype)
        assert {key: type(value) for key, value in i.items()} == {
            key.replace("accuracy", score): kind for key, kind in INFO.items()
        }
        json.dumps(i, allow_nan=False)
        assert i["student_step"] == step * settings.steps_per_action
        seen = dict(zip(fields, o.tolist(), strict=True))
        expected = {"progress": i["student_step"] / settings.horizon}
        expected |= {f"{part}_{score}": i[f"{part}_{score}"] for part in ("train", "dev")}
        assert {name: seen[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    objectives = [objective] + [i["objective"] for i in infos]
    assert np.diff(objectives) == pytest.approx(rewards, abs=1e-9)
    assert sum(rewards) == pytest.approx(infos[-1]["objective"] - objective, abs=1e-6)
    assert env.unwrapped.evaluate("dev")["dev_objective"] == pytest.approx(infos[-1]["objective"], abs=1e-6)
    dynamics = env.unwrapped.dynamics
    exact = [
        float(dynamics.objective(s, env.unwrapped.episode))
        for s in (dynamics.init(env.unwrapped.episode), env.unwrapped.student)
    ]
    assert sum(rewards) == pytest.approx(exact[1] - exact[0], abs=1e-6)


# --- over the registry -----------------------------------------------------------------------------------------------


def test_every_registered_environment_is_under_test():
    assert set(SMALL) | set(FROM_FILES) == set(ENVIRONMENTS)
    for name, kwargs in ENVIRONMENTS.items():
        assert gym.spec(name).kwargs == {"defaults": json.loads(json.dumps(kwargs))}


@pytest.mark.parametrize("name", SMALL)
def test_checkers_have_no_complaint(name):
    check_env(make(name).unwrapped)  # makes one for each render mode itself
    sb3_check_env(make(name, render_mode="rgb_array").unwrapped)


# All of samples with one label and of samples with many; of each other environment one of pairs of classes and one of
# samples.
EVERY, SOME = ("TeachDigits-v0", "TeachSegmentation-v0"), ("bilinear", "sample-weights", "distillation")
FAMILIES_OF = [(name, loss) for name in SMALL for loss in losses_of(name) if name in EVERY or loss in SOME]


@pytest.mark.parametrize(("name", "loss"), FAMILIES_OF)
def test_the_contract_holds_of_each_family(name, loss):
    env = make(name, loss=loss)
    if name == "TeachDigits-v0":  # families differ in their actions, in which environments are alike
        sb3_check_env(env.unwrapped)
    assert_follows_the_contract(env)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float64"},
        {"steps_per_action": 3, "horizon": 9, "lr_schedule": "linear"},
        {"label_noise": 0.4},
        {"label_noise": 0.4, "label_noise_kind": "symmetric", "dev_noise": False},
        {"imbalance": 3, "dev_size": 20},
        {"train_on": "pool"},
        {"resplit": False, "train_size": 30},
        {"pool_size": 90},
        {"objective_temperature": 1.0, "nesterov": True, "weight_decay": 0.01},
        {"objective": "likelihood"},
    ],
    ids=str,
)
def test_the_contract_holds_under_settings(settings):
    env = make(**settings)
    assert env.action_space.dtype == np.dtype(settings.get("dtype", "float32"))
    assert_follows_the_contract(env)


@pytest.mark.skipif(not os.environ.get("TEACHENV_DATA"), reason="TEACHENV_DATA names no data")
@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
@pytest.mark.parametrize("name", FROM_FILES)
def test_the_contract_holds_on_data_from_files(name):
    try:
        env = gym.make(name, **FROM_FILES[name])
    except teachenv.DatasetUnavailable:
        pytest.skip("TEACHENV_DATA lacks this data set")
    assert_follows_the_contract(env)
    assert env.unwrapped.reset(seed=0)[1]["dataset"].startswith(("mnist", "cifar10"))


@pytest.mark.parametrize("name", SMALL)
def test_a_spec_survives_json(name):
    schedule = {"name": "step", "milestones": [1, 2]}
    env = make(name, loss=losses_of(name)[-1], loss_kwargs={"scale": 0.3}, lr_schedule=schedule)
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    assert again.unwrapped.problem.settings == env.unwrapped.problem.settings
    results = []
    for e in (env, again):
        first, _ = e.reset(seed=3)
        results.append([first, *roll(e)[:2]])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_worker_processes_of_gymnasium_give_the_same_episodes(in_new_process):
    kwargs = SMALL["TeachDigits-v0"] | {"loss": "mixture"}
    envs = gym.make_vec(
        "TeachDigits-v0", 2, vectorization_mode="async", vector_kwargs={"context": "forkserver"}, **kwargs
    )
    try:
        observations, _ = envs.reset(seed=5)
        actions = np.random.default_rng(0).uniform(-1, 1, (2, *envs.action_space.shape)).astype(np.float32)
        stepped = [envs.step(a)[:2] for a in actions]
    finally:
        envs.close()
    for i in range(2):
        env = gym.make("TeachDigits-v0", **kwargs)
        assert np.array_equal(env.reset(seed=5 + i)[0], observations[i])
        for action, (o, r) in zip(actions, stepped, strict=True):
            observation, reward, *_ = env.step(action[i])
            assert np.array_equal(observation, o[i])
            assert reward == r[i]


# --- what an episode means -------------------------------------------------------------------------------------------


def test_observed_precision_is_scikit_learns():
    from sklearn.metrics import precision_score

    env = make(horizon=20, dev_size=200)
    env.reset(seed=0)
    observations, _, _ = roll(env)
    teach = env.unwrapped
    x, y = teach.dynamics.dev(teach.episode)
    predicted = teach.dynamics.student(teach.student.parameters, {}, x, training=False)[0].outputs.argmax(1)
    expected = precision_score(y, predicted, labels=range(10), average=None, zero_division=0.0)
    assert observations[-1][3:] == pytest.approx(expected, abs=1e-6)
    assert teach.OBSERVATION_FIELDS[3:] == tuple(f"dev_precision_{c}" for c in range(10))


def test_a_part_of_dev_can_be_measured():
    whole, part = make(dev_size=400), make(dev_size=400, dev_measured=40)
    for env in (whole, part):
        env.reset(seed=0)
    one, other = whole.unwrapped, part.unwrapped
    assert torch.equal(one.episode.dev, other.episode.dev)
    _, _, infos = roll(part)
    assert all(abs(40 * i["dev_accuracy"] - round(40 * i["dev_accuracy"])) < 1e-4 for i in infos)
    x, y = (t[other.episode.dev[:40]] for t in other.problem.task.pool)
    outputs = other.dynamics.student(other.student.parameters, {}, x, training=False)[0].outputs
    expected = torch.softmax(outputs / 0.2, 1)[torch.arange(40), y].mean()
    assert infos[-1]["objective"] == pytest.approx(float(expected), abs=1e-6)
    roll(whole)
    assert other.evaluate("dev") == one.evaluate("dev")  # asked for, it is all of dev


# --- warm start ------------------------------------------------------------------------------------------------------


def test_a_warm_start_is_plain_training_before_the_episode():
    cold, warm = make(horizon=20), make(horizon=20, warm_start=20)
    (_, before), (_, after) = (env.reset(seed=0) for env in (cold, warm))
    one, other = cold.unwrapped, warm.unwrapped
    assert after["student_step"] == 0
    assert after["objective"] > before["objective"] + 0.2
    # As far as twenty steps of cross-entropy lead, on other minibatches.
    _, _, infos = roll(cold)
    assert after["objective"] == pytest.approx(infos[-1]["objective"], abs=0.1)
    for name in ("batches", "dev", "train"):
        assert torch.equal(getattr(one.episode, name), getattr(other.episode, name))
    assert not any(slot.any() for slot in other.student.slots.values())
    _, rewards, infos = roll(warm)
    assert sum(rewards) == pytest.approx(infos[-1]["objective"] - after["objective"], abs=1e-6)


def test_a_warm_start_is_a_function_of_the_seed_and_not_of_the_teacher():
    starts = [
        make(loss=loss, lr_schedule=schedule, warm_start=3).unwrapped
        for loss, schedule in (("bilinear", "constant"), ("mixture", "linear"))
    ]
    for seed in (0, 1):
        for env in starts:
            env.reset(seed=seed)
        one, other = (env.student.parameters for env in starts)
        assert all(torch.equal(one[name], other[name]) for name in one)
    batch = teachenv.TeachVectorEnv(2, **vars(starts[0].problem.settings))
    batch.reset(seed=0)
    for name, value in starts[0].student.parameters.items():
        torch.testing.assert_close(batch.students.parameters[name][1], value, rtol=0, atol=1e-5)
        assert not torch.equal(batch.students.parameters[name][0], value)


def test_one_step_of_a_warm_start_is_one_of_sgd():
    """On some minibatch of the episode's training samples: its gradient lies in the span of the samples' gradients."""
    options = {"warm_start": 1, "batch_size": 1, "train_size": 6, "learning_rate": 0.1, "dtype": "float64"}
    cold, warm = (make(**options | {"warm_start": steps}).unwrapped for steps in (0, 1))
    for env in (cold, warm):
        env.reset(seed=0)
    start, found = cold.student.parameters, warm.student.parameters
    reached = []
    for sample in cold.episode.train:
        leaves = {name: p.clone().requires_grad_() for name, p in start.items()}
        outputs = cold.dynamics.student(leaves, {}, cold.problem.task.pool[0][sample][None], training=True)[0].outputs
        loss = torch.nn.functional.cross_entropy(outputs, cold.problem.task.pool[1][sample][None])
        grads = torch.autograd.grad(loss, list(leaves.values()))
        reached.append(
            all(
                torch.allclose(found[n], start[n] - 0.1 * g, rtol=1e-12, atol=1e-14)
                for n, g in zip(start, grads, strict=True)
            )
        )
    assert sum(reached) == 1


def test_several_student_steps_under_one_action_are_that_action_repeated():
    fine, coarse = make(horizon=6), make(horizon=6, steps_per_action=3)
    fine.reset(seed=0)
    coarse.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 100)).astype(np.float32)
    for action in actions:
        each = [fine.step(action) for _ in range(3)]
        _, reward, terminated, _, info = coarse.step(action)
        assert reward == pytest.approx(sum(r for _, r, *_ in each))
        for name in ("train_loss", "train_accuracy"):
            assert info[name] == pytest.approx(np.mean([i[name] for *_, i in each]))
        assert info["objective"] == each[-1][-1]["objective"]
        assert terminated == each[-1][2]
    assert terminated


def test_the_learning_rate_is_that_of_the_last_student_step():
    env = make(horizon=4, learning_rate=0.5, lr_schedule="linear")
    rates = [env.reset(seed=0)[1]["learning_rate"]] + [i["learning_rate"] for i in roll(env)[2]]
    assert rates == pytest.approx([0.5, 0.5, 0.375, 0.25, 0.125])


def test_noise_is_named_and_the_data_keeps_its_name():
    for settings, task in (({"label_noise": 0.4}, "digits-noisy-40"), ({}, "digits")):
        _, info = make(**settings).reset(seed=0)
        assert (info["task"], info["dataset"]) == (task, "digits")
    _, info = make("TeachCIFAR-v0").reset(seed=0)
    assert info["dataset"] == "synthetic"


def test_training_helps_and_its_measure_is_the_splits_own():
    env = make(horizon=60, dev_size=400, batch_size=32)
    env.reset(seed=0)
    before = env.unwrapped.evaluate("test")
    neutral = np.zeros(100, dtype=np.float32)
    while not env.step(neutral)[2]:
        pass
    for split in ("train", "dev", "pool", "test"):
        found = env.unwrapped.evaluate(split)
        assert found.pop("diverged") == 0.0
        assert set(found) == {f"{split}_{name}" for name in ("accuracy", "error", "objective")}
        assert all(type(value) is float for value in found.values())
        assert found[f"{split}_accuracy"] + found[f"{split}_error"] == pytest.approx(1)
    assert env.unwrapped.evaluate()["test_accuracy"] > 0.8 > 0.3 > before["test_accuracy"]
    with pytest.raises(ValueError, match="did you mean 'test'"):
        env.unwrapped.evaluate("tests")


TRACE = """
import pickle, sys
import gymnasium as gym, numpy as np, teachenv

def trace(name, kwargs, snapshot):
    env = gym.make(name, **kwargs)
    observation, info = env.reset(seed=11)
    result = [observation.tolist(), info]
    if snapshot is not None:
        env.unwrapped.set_state(snapshot)
    rng, ended = np.random.default_rng(0), False
    while not ended:
        observation, reward, ended, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        result += [observation.tolist(), reward, info]
    student = env.unwrapped.student
    return result, {n: t.numpy().tobytes() for n, t in (student.parameters | student.buffers).items()}
"""
DUMP = """
with open(sys.argv[1], "rb") as file:
    jobs = pickle.load(file)
with open(sys.argv[1], "wb") as file:
    pickle.dump([trace(*job) for job in jobs], file)
"""


def test_seeds_and_snapshots_give_the_same_episode_bitwise_in_a_new_process(in_new_process, tmp_path, monkeypatch):
    monkeypatch.undo()  # the new process draws all test images, and a snapshot fits the same data alone
    jobs = []
    for name in ("TeachDigits-v0", "TeachDistill-v0", "TeachCIFAR-v0"):
        env = make(name, lr_schedule="cosine")
        env.reset(seed=0)
        roll(env, 1)
        kwargs = SMALL[name] | {"lr_schedule": "cosine"}
        jobs += [(name, kwargs, None), (name, kwargs, env.unwrapped.get_state())]
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    in_new_process(TRACE + DUMP, tmp_path / "jobs")
    here = {}
    exec(TRACE, here)
    assert pickle.loads((tmp_path / "jobs").read_bytes()) == [here["trace"](*job) for job in jobs]


def test_episodes_of_one_generator_follow_from_the_seed():
    env, other = make(), make()
    first = [env.reset(seed=4)[0], env.reset()[0], env.reset()[0]]
    again = [other.reset(seed=4)[0], *(other.reset()[0] for _ in range(2))]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])


# --- snapshots -------------------------------------------------------------------------------------------------------


def dropped():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 10))


@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("settings", [{"horizon": 4}, {"horizon": 4, "student": dropped, "dtype": "float64"}])
def test_a_snapshot_continues_bitwise_here_and_in_another_environment(settings, when):
    env = make(render_mode="ansi", **settings)
    env.reset(seed=0)
    roll(env, when, seed=1)
    snapshot = env.unwrapped.get_state()
    through_a_file = pickle.loads(pickle.dumps(snapshot))

    def continued(e):
        observations, rewards, infos = roll(e, seed=2)
        text = e.render()
        following, _ = e.reset()  # the generator continues, too
        return observations, rewards, infos, text, following

    expected = continued(env)
    env.unwrapped.set_state(snapshot)
    other = make(render_mode="ansi", **settings)
    other.reset(seed=99)
    other.unwrapped.set_state(through_a_file)
    for found in (continued(env), continued(other)):
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_a_snapshot_before_the_first_reset_and_after_the_end():
    env = make()
    fresh = env.unwrapped.get_state()
    env.reset(seed=0)
    roll(env)
    ended = env.unwrapped.get_state()
    env.reset()
    env.unwrapped.set_state(ended)
    with pytest.raises(gym.error.ResetNeeded, match="has ended"):
        env.step(np.zeros(100, dtype=np.float32))
    env.unwrapped.set_state(fresh)
    with pytest.raises(gym.error.ResetNeeded, match=r"call env\.reset\(\) first"):
        env.unwrapped.step(np.zeros(100, dtype=np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 6}, "horizon: 3 there, 6 here"),
        ({"student_kwargs": {"hidden": [8]}}, "student_kwargs"),
        ({"learning_rate": 0.2, "loss": "mixture"}, "(?s)loss.*learning_rate"),
        ({"dtype": "float64"}, "dtype"),
    ],
)
def test_a_snapshot_of_another_environment_is_refused_and_nothing_changed(settings, message):
    env, other = make(), make(**settings)
    other.reset(seed=7)
    reference = make(**settings)
    reference.reset(seed=7)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        other.unwrapped.set_state(env.unwrapped.get_state())
    with pytest.raises(ValueError, match="expected what get_state"):
        other.unwrapped.set_state({"student": None})
    with pytest.raises(ValueError, match="found list"):
        other.unwrapped.set_state([])
    older = {name: value for name, value in other.unwrapped.get_state().items() if name != "curves"}
    with pytest.raises(ValueError, match="lacks 'curves': another version"):
        other.unwrapped.set_state(older)
    for a, b in zip(roll(other), roll(reference), strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    assert np.array_equal(other.reset()[0], reference.reset()[0])


def test_snapshots_know_options_by_value_whatever_their_type():
    one = make(student_kwargs={"hidden": (8,), "activation": "relu"}, learning_rate=np.float32(0.5))
    other = make(student_kwargs={"activation": "relu", "hidden": [8]}, learning_rate=0.5)
    one.reset(seed=0)
    other.unwrapped.set_state(one.unwrapped.get_state())
    with pytest.raises(ValueError, match="learning_rate"):
        make(student_kwargs={"activation": "relu", "hidden": [8]}, learning_rate=np.float32(0.25)).unwrapped.set_state(
            one.unwrapped.get_state()
        )


# --- divergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 7])
def test_a_diverging_student_ends_its_episode_at_a_finite_penalty(penalty):
    env = make(
        horizon=50, learning_rate=1e30, student_kwargs={"activation": "relu"}, divergence_penalty=penalty,
        render_mode="rgb_array",
    )  # fmt: skip
    env.reset(seed=0)
    observations, rewards, infos = roll(env)
    assert len(rewards) < 50
    assert rewards[-1] == -penalty
    assert [i["diverged"] for i in infos] == [False] * (len(infos) - 1) + [True]
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    assert all(env.observation_space.contains(o) for o in observations)
    assert observations[-1][0] == pytest.approx(len(rewards) / 50)
    json.dumps(infos, allow_nan=False)
    assert {key: type(value) for key, value in infos[-1].items()} == INFO
    env.render()
    with pytest.raises(gym.error.ResetNeeded, match="has ended"):
        env.step(np.zeros(100, dtype=np.float32))
    assert not env.reset()[1]["diverged"]


def test_a_student_that_starts_out_broken_is_an_error_and_no_episode():
    def broken():
        module = nn.Linear(64, 10)
        nn.init.constant_(module.weight, float("nan"))
        return module

    env = make(student=broken)
    with pytest.raises(ValueError, match="untrained student's outputs on dev are not finite"):
        env.unwrapped.reset(seed=0)
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.step(np.zeros(100, dtype=np.float32))


# --- rendering -------------------------------------------------------------------------------------------------------


# One of each kind of coefficients; the other families share theirs.
@pytest.mark.parametrize("loss", ["bilinear", "diagonal", "sample-weights", "mixture", "dynamic-network"])
def test_frames_show_the_episode_so_far_and_the_current_action(loss):
    env = make(render_mode="rgb_array", loss=loss)
    env.reset(seed=0)
    frames = [env.render()]
    for sign in (1, -1):
        env.step(np.full(env.action_space.shape, sign, dtype=np.float32))
        frames.append(env.render())
    assert all(f.shape == (480, 960, 3) and f.dtype == np.uint8 for f in frames)
    left, right = np.s_[:, :470], np.s_[60:, 520:]  # below the headline, which counts the steps
    for a, b in ((0, 1), (1, 2)):
        assert not np.array_equal(frames[a][left], frames[b][left])
        assert not np.array_equal(frames[a][right], frames[b][right])


def test_text_tells_the_current_numbers():
    env = make(render_mode="ansi")
    env.reset(seed=0)
    _, _, infos = roll(env, 2)
    shown = env.render()
    assert "step 2/3" in shown
    assert f"{infos[-1]['objective']:.3f}" in shown
    assert "digits" in shown


def test_an_episode_can_be_filmed(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(
        make(render_mode="rgb_array"), str(tmp_path / "films"), episode_trigger=lambda _: True, disable_logger=True
    )
    env.reset(seed=0)
    roll(env)
    env.close()
    (film,) = (tmp_path / "films").glob("*.mp4")
    assert film.stat().st_size > 1000


def test_without_a_render_mode_nothing_is_shown():
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match=r'render_mode="rgb_array"'):
        assert env.render() is None


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"studnet": "mlp"}, TypeError, "did you mean 'student'"),
        ({"student": "mpl"}, ValueError, "did you mean 'mlp'"),
        ({"student": "lenet"}, ValueError, "takes square images"),
        ({"student": nn.Linear(64, 10)}, ValueError, "a function that builds a fresh"),
        (
            {"student": lambda: nn.Linear(64, 9)},
            ValueError,
            r"outputs of shape \(9,\) for a sample, but task 'digits' needs \(10,\)",
        ),
        ({"loss": "biliner"}, ValueError, "did you mean 'bilinear'"),
        ({"loss": nn.CrossEntropyLoss}, ValueError, "unknown loss .*: expected a LossFamily object or one of "),
        ({"loss": teachenv.losses.Bilinear}, ValueError, "expected a LossFamily object or one of "),
        ({"loss_kwargs": {"scale": -1}}, ValueError, "scale must be a finite number above 0, found -1"),
        ({"task": "digit"}, ValueError, "did you mean 'digits'"),
        ({"task": 3}, ValueError, "unknown task 3: expected a teachenv.Task or one of "),
        ({"dataset": "mnist"}, ValueError, "unknown dataset for task 'digits'"),
        ({"horizon": 0}, ValueError, "horizon must be an integer of at least 1, found 0"),
        ({"horizon": 2.5}, ValueError, r"found 2\.5"),
        ({"steps_per_action": 2}, ValueError, "a divisor of horizon=3, found 2"),
        ({"batch_size": -1}, ValueError, "batch_size must be an integer of at least 1, found -1"),
        ({"dev_size": 2000}, ValueError, "splits are larger than the data"),
        ({"dev_size": 1000}, ValueError, "splits are larger than the data"),
        ({"dev_measured": 51}, ValueError, "dev_measured must be at most dev_size=50, found 51"),
        ({"dev_measured": 0}, ValueError, "dev_measured must be None or an integer of at least 1"),
        ({"warm_start": -1}, ValueError, "warm_start must be an integer of at least 0"),
        ({"warm_start": 0.5}, ValueError, "warm_start must be an integer of at least 0"),
        ({"autocast": "float16"}, ValueError, "autocast must be one of"),
        ({"autocast": "bfloat16", "dtype": "float64"}, ValueError, "autocast must be one of"),
        ({"train_size": 951}, ValueError, "train_size=951 and dev_size=50 of a pool of 1000"),
        ({"train_size": 4}, ValueError, "batch_size=8 is larger than the 4 training samples"),
        ({"train_size": 0}, ValueError, "None or an integer of at least 1"),
        ({"pool_size": 5000}, ValueError, "pool_size is 5000"),
        ({"train_on": "dev", "dev_size": 50}, ValueError, "unknown train_on 'dev'"),
        ({"augment": True}, ValueError, "has no augmentation"),
        ({"label_noise": 1.0}, ValueError, r"number in \[0, 1\), found 1\.0"),
        ({"label_noise": 0.1, "label_noise_kind": "pairs"}, ValueError, "did you mean 'pair'"),
        ({"learning_rate": -0.1}, ValueError, "a finite number of at least 0, found -0.1"),
        ({"learning_rate": "0.1"}, ValueError, "a finite number of at least 0, found '0.1'"),
        ({"momentum": float("nan")}, ValueError, "momentum must be"),
        ({"divergence_penalty": float("inf")}, ValueError, "divergence_penalty must be a finite number"),
        ({"nesterov": True, "momentum": 0.0}, ValueError, "needs momentum > 0"),
        ({"lr_schedule": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"objective": "loss"}, ValueError, "unknown objective 'loss'"),
        ({"objective_temperature": 0}, ValueError, "objective_temperature must be a finite number above 0"),
        ({"dtype": "float16"}, ValueError, "unknown dtype 'float16'"),
        ({"device": "cpux"}, ValueError, "device 'cpux' cannot be used"),
        ({"render_mode": "human"}, ValueError, "render_mode must be None or one of"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # the same in every worker of pytest-xdist
)
def test_bad_settings_are_one_clear_error(settings, error, message):
    with pytest.raises(error, match=message):
        teachenv.TeachEnv(**({"task": "digits"} | SMALL["TeachDigits-v0"] | settings))


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (np.zeros(99, dtype=np.float32), ValueError, r"shape \(100,\) here, found \(99,\)"),
        (np.zeros((1, 100), dtype=np.float32), ValueError, r"found \(1, 100\)"),
        (np.float32(0), ValueError, r"found \(\)"),
        (np.zeros(100, dtype=np.int64), TypeError, "found int64"),
        (np.zeros(100, dtype=bool), TypeError, "found bool"),
        (["a"] * 100, TypeError, "array of float32"),
        (np.full(100, np.nan, dtype=np.float32), ValueError, "contains NaN"),
        (np.full(100, np.inf, dtype=np.float32), ValueError, r"lie in \[-1, 1\], found a coordinate of size inf"),
        (np.full(100, -1.5, dtype=np.float32), ValueError, r"size 1\.5; np\.clip"),
    ],
    ids=str,
)
def test_bad_actions_are_errors_and_change_nothing(action, error, message):
    env, reference = make().unwrapped, make().unwrapped
    for e in (env, reference):
        e.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(action)
    for a, b in zip(roll(env), roll(reference), strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_actions_of_either_float_type_are_taken():
    results = []
    for dtype in (np.float32, np.float64):
        env = make().unwrapped
        env.reset(seed=0)
        results.append(env.step(np.full(100, 0.5, dtype=dtype))[1])
    assert results[0] == results[1]


def test_steps_without_a_reset_and_after_the_end_are_errors():
    env = make().unwrapped
    neutral = np.zeros(100, dtype=np.float32)
    for use in (lambda: env.step(neutral), env.evaluate, lambda: env.student, lambda: env.episode):
        with pytest.raises(gym.error.ResetNeeded, match=r"call env\.reset\(\) first"):
            use()
    env.reset(seed=0)
    _, _, infos = roll(env)
    with pytest.raises(gym.error.ResetNeeded, match="the episode has ended"):
        env.step(neutral)
    # The student is still there to be measured.
    assert env.evaluate("dev")["dev_accuracy"] == pytest.approx(infos[-1]["dev_accuracy"], abs=1e-6)


def test_a_loss_on_the_last_layer_says_what_it_needs():
    with pytest.raises(ValueError, match=r"does not end in a torch\.nn\.Linear"):
        make(student=lambda: nn.Sequential(nn.Linear(64, 10), nn.Tanh()), loss="mixture")


@pytest.mark.parametrize("name", ["TeachMNIST-v0", "TeachCIFAR-v0", "TeachCIFAR100-v0"])
def test_missing_data_says_where_it_was_looked_for_and_leaves_nothing(monkeypatch, tmp_path, name):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    with pytest.raises(teachenv.DatasetUnavailable) as raised:
        gym.make(name, data_root=str(tmp_path / "data"))
    for part in (str(tmp_path / "data"), "no network in tests", "TEACHENV_DATA"):
        assert part in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_students_on_gpu_are_skipped_without_one():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="device 'cuda' cannot be used"):
        teachenv.TeachEnv(device="cuda")


# --- what others need of a student in training ------------------------------------------------------------------------


def test_the_task_and_the_students_outputs_can_be_had():
    env = make(horizon=3)
    with pytest.raises(gym.error.ResetNeeded):
        env.unwrapped.predict(env.unwrapped.task.test[0])
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape, dtype=np.float32))
    inputs, labels = env.unwrapped.task.test
    outputs = env.unwrapped.predict(inputs.numpy())
    assert outputs.shape == (len(inputs), 10)
    assert not outputs.requires_grad
    accuracy = float((outputs.argmax(1) == labels).double().mean())
    assert env.unwrapped.evaluate("test")["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)

    students = teachenv.TeachVectorEnv.like(env.unwrapped, 2)
    students.reset(seed=[0, 5])
    students.step(np.zeros(students.action_space.shape, dtype=np.float32))
    both = students.predict(students.task.test[0])
    torch.testing.assert_close(both[0], outputs, rtol=1e-4, atol=1e-5)
    assert not torch.equal(both[0], both[1])
