"""When a batch replaces students whose episodes have ended: as Gymnasium's own vector environments do, in each mode."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from torch import nn

from meta import ActionGradient, VectorActionGradient
from teachenv import Task, TeachEnv, TeachVectorEnv

COUNT, HORIZON = 3, 4
MODES = list(AutoresetMode)


class Exploding(nn.Module):
    """A network that diverges in its second step if its initialisation drew a positive `sign`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("sign", torch.sign(torch.randn(())))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count.add_(1)
        return self.linear(x) * torch.where((self.sign > 0) & (self.count > 2), torch.inf, 1.0)


def settings(**changes):
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    inputs = rng.normal(size=(60, 5)) + 2 * rng.normal(size=(3, 5))[targets]
    task = Task("vectors", "made-up", (inputs[:50], targets[:50]), (inputs[50:], targets[50:]), 3)
    options = {"task": task, "horizon": HORIZON, "batch_size": 8, "dev_size": 20, "dtype": "float64"}
    return options | {"student": Exploding} | changes


def steps(env, count, seed=1):
    """Results of steps with random actions; where nobody else does it, students that ended are reset by a mask."""
    rng, results = np.random.default_rng(seed), []
    for _ in range(count):
        actions = rng.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype)
        results.append(env.step(actions))
        ended = results[-1][2]
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            results.append(env.reset(options={"reset_mask": ended}))
    return results


def assert_same(found, wanted):
    """Equal values, to float tolerance, where a mask of Gymnasium's says that there is one."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        if key.startswith("_"):
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        elif isinstance(value, dict):
            assert_same(found[key], value)
        else:
            for i in np.flatnonzero(wanted[f"_{key}"]):
                if isinstance(value[i], str):
                    assert found[key][i] == value[i]
                else:
                    np.testing.assert_allclose(found[key][i], value[i], rtol=1e-6, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_each_mode_is_gymnasiums(mode, path):
    batch = TeachVectorEnv(COUNT, path=path, autoreset_mode=mode, **settings())
    singles = SyncVectorEnv([lambda: TeachEnv(**settings())] * COUNT, autoreset_mode=mode)
    ends = []
    for found, wanted in zip(
        [batch.reset(seed=5), *steps(batch, 12)], [singles.reset(seed=5), *steps(singles, 12)], strict=True
    ):
        assert len(found) == len(wanted)
        for ours, theirs in zip(found[:-1], wanted[:-1], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        if len(found) == 5:
            assert found[0].dtype == wanted[0].dtype
            ends.append(found[2])
        assert_same(found[-1], wanted[-1])
    ended = np.stack(ends)
    assert ended.sum() >= 2 * COUNT
    assert (ended.any(axis=1) & ~ended.all(axis=1)).any()  # some end alone


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_given_as_gymnasium_takes_it_and_shown_where_libraries_look(mode):
    for given in (mode, mode.value):
        envs = gym.make_vec("TeachDigits-v0", num_envs=2, autoreset_mode=given, horizon=2)
        assert envs.metadata["autoreset_mode"] is envs.autoreset_mode is mode
    assert TeachVectorEnv(**settings()).autoreset_mode is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("mode", ["NEXT_STEP", None, 3])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match=r"unknown autoreset_mode .*one of 'Disabled', 'NextStep', 'SameStep'"):
        TeachVectorEnv(2, autoreset_mode=mode, **settings())


def test_ended_students_that_nobody_resets_are_named():
    envs = TeachVectorEnv(2, autoreset_mode="Disabled", **settings(student="mlp"))
    envs.reset(seed=0)
    for _ in range(HORIZON):
        assert not envs.ended.any()
        envs.step(np.zeros((2, 9)))
    assert envs.ended.all()
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"episodes of students \[1\] have ended: call reset\(options="):
        envs.step(np.zeros((2, 9)))


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_resets_its_students_and_no_other(mode):
    envs = TeachVectorEnv(COUNT, autoreset_mode=mode, **settings(student="mlp"))
    envs.reset(seed=0)
    envs.step(np.zeros((COUNT, 9)))
    before = envs.students.step.tolist()
    observations, infos = envs.reset(seed=[None, 7, None], options={"reset_mask": np.array([False, True, False])})
    assert (before, envs.students.step.tolist()) == ([1, 1, 1], [1, 0, 1])
    assert infos["_objective"].tolist() == [False, True, False]
    np.testing.assert_allclose(observations[1], TeachEnv(**settings(student="mlp")).reset(seed=7)[0])
    ends = [envs.step(np.zeros((COUNT, 9)))[2].tolist() for _ in range(HORIZON - 1)]
    assert ends[-1] == [True, False, True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory", ["states", "sqrt"])
def test_gradients_are_of_the_episode_that_ended(mode, memory):
    """As those of single environments, whichever students end alone and whoever replaces them, and when."""
    batch = VectorActionGradient(
        TeachVectorEnv(COUNT, autoreset_mode=mode, **settings(learning_rate=0.05)), memory=memory
    )
    single = ActionGradient(TeachEnv(**settings(learning_rate=0.05)))
    rng, compared = np.random.default_rng(1), 0
    batch.reset(seed=5)
    taken = [[] for _ in range(COUNT)]
    seeds = list(batch.unwrapped.episodes.seeds)
    for _ in range(16):
        resting = batch.unwrapped.ended
        actions = rng.uniform(-1, 1, batch.action_space.shape)
        *_, ended, _, infos = batch.step(actions)
        for i in np.flatnonzero(~resting):
            taken[i].append(actions[i])
        for i in np.flatnonzero(ended):
            assert infos["_action_gradient"][i]
            if len(taken[i]) == HORIZON and not infos.get("final_info", infos)["diverged"][i]:
                np.testing.assert_allclose(
                    infos["action_gradient"][i], gradient_of(single, seeds[i], taken[i]), rtol=1e-6, atol=1e-10
                )
                compared += 1
        if mode is AutoresetMode.DISABLED and ended.any():
            batch.reset(options={"reset_mask": ended})
        for i, seed in enumerate(batch.unwrapped.episodes.seeds):
            if seed != seeds[i]:
                seeds[i], taken[i] = seed, []
    assert compared >= 3


def gradient_of(single, seed, actions):
    """The gradient that a single environment gives for the episode of this seed."""
    teach = single.unwrapped
    single.reset(seed=0)
    teach._standing = teach.interface.begin(teach.problem.episodes.of(seed))
    for action in actions:
        *_, info = single.step(action)
    return info["action_gradient"]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_a_snapshot_remembers_who_waits(mode):
    envs, other = (TeachVectorEnv(COUNT, autoreset_mode=mode, **settings()) for _ in range(2))
    envs.reset(seed=5)
    while not envs.ended.any():
        envs.step(np.zeros((COUNT, 9)))
    other.set_state(envs.get_state())
    assert other.ended.tolist() == envs.ended.tolist()
    with pytest.raises(ValueError, match="students whose episodes have ended, expected none with autoreset_mode"):
        TeachVectorEnv(COUNT, **settings()).set_state(envs.get_state())


WRAPPERS = {
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "NormalizeObservation": wrappers.NormalizeObservation,
    "NormalizeReward": wrappers.NormalizeReward,
    "TransformReward": lambda envs: wrappers.TransformReward(envs, lambda rewards: 100 * rewards),
    "ClipReward": lambda envs: wrappers.ClipReward(envs, -1, 1),
    "FlattenObservation": wrappers.FlattenObservation,
    "RescaleObservation": lambda envs: wrappers.RescaleObservation(envs, np.float32(-1), np.float32(1)),
    "RescaleAction": lambda envs: wrappers.RescaleAction(envs, np.float32(0), np.float32(1)),
    "ClipAction": wrappers.ClipAction,
    "DictInfoToList": wrappers.DictInfoToList,
}
OBSERVING = {
    "NormalizeObservation": [AutoresetMode.NEXT_STEP],
    "FlattenObservation": [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED],
    "RescaleObservation": [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED],
}
"""Wrappers that Gymnasium allows in some modes only."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRAPPERS)
def test_gymnasiums_vector_wrappers_work(mode, name):
    envs = TeachVectorEnv(COUNT, autoreset_mode=mode, **settings(student="mlp", dtype="float32"))
    if mode not in OBSERVING.get(name, MODES):
        with pytest.raises(ValueError, match=r"xpected .*autoreset_mode.* to be .*NEXT_STEP"):  # Gymnasium's own words
            WRAPPERS[name](envs)
        return
    envs = WRAPPERS[name](envs)
    envs.reset(seed=0)
    actions = np.full((COUNT, 9), 0.5, dtype=np.float32)
    for _ in range(HORIZON):
        observations, rewards, ended, _, infos = envs.step(actions)
    assert ended.all()
    assert observations.shape == envs.observation_space.shape
    assert rewards.shape == (COUNT,)
    if name == "RecordEpisodeStatistics":
        gained = infos.get("final_info", infos)["objective"]
        assert infos["episode"]["l"].tolist() == [HORIZON] * COUNT
        assert (np.abs(infos["episode"]["r"]) < np.abs(gained) + 1).all()
