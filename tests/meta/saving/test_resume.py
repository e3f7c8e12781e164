"""Training that was interrupted at any place ends, bitwise, where unbroken training ends."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch.autograd import forward_ad
from torch.nn.utils._named_member_accessor import NamedMemberAccessor

import agents
import meta
from meta.saving.modes import _hooks, modes_kept
from meta.saving.wrapper_states import set_wrapper_states, wrapper_states
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.randomness import Purpose, torch_seed
from teachenv.students.kernels import DifferentiableKernels

TOTAL = 16


def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    inputs = rng.normal(size=(60, 5))
    return Task("vectors", "made-up", (inputs[:50], targets[:50]), (inputs[50:], targets[50:]), 3)


SETTINGS: dict[str, Any] = {"horizon": 4, "batch_size": 8, "dev_size": 20}


def single(**changes: Any) -> TeachEnv:
    return TeachEnv(task=task(), **SETTINGS, **changes)


def batch() -> TeachVectorEnv:
    return TeachVectorEnv(2, task=task(), **SETTINGS)


def normalized() -> VecNormalize:
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(single(), 3)] * 2)
    return VecNormalize(VecMonitor(env), norm_obs=True, norm_reward=False)


REPLAY: dict[str, Any] = {"learning_starts": 4, "batch_size": 8, "buffer_size": 10, "policy_kwargs": {"net_arch": [8]}}
NOISE = OrnsteinUhlenbeckActionNoise(np.zeros(9), np.full(9, 0.2))
TEACHERS: dict[str, tuple[Any, str, Callable[[], Any], dict[str, Any]]] = {
    "DDPG": (agents.DDPG, "AttentionPolicy", single, REPLAY),
    "DDPG with a noise that remembers": (agents.DDPG, "MlpPolicy", batch, {**REPLAY, "action_noise": NOISE}),
    "TD3": (agents.TD3, "AttentionPolicy", batch, REPLAY),
    "SAC": (agents.SAC, "AttentionPolicy", single, {**REPLAY, "uniform_start": True}),
    "PPO": (agents.PPO, "AttentionPolicy", batch, {"n_steps": 3, "batch_size": 6, "n_epochs": 1}),
    "RMD": (meta.RMD, "AttentionPolicy", batch, {}),
    "FiniteDifference": (meta.FiniteDifference, "AttentionPolicy", single, {}),
    "EvolutionStrategies": (meta.EvolutionStrategies, "AttentionPolicy", batch, {}),
    "DataTeacher": (meta.DataTeacher, "DataPolicy", lambda: single(loss="sample-weights"), {}),
    "DynamicLossTeacher": (meta.DynamicLossTeacher, "LSTMPolicy", single, {"bptt": 2}),
}
WRAPPED = "VecNormalize, monitors and a time limit"
TEACHERS[WRAPPED] = (agents.DDPG, "MlpPolicy", normalized, REPLAY)


def made(name: str) -> Any:
    cls, policy, environment, options = TEACHERS[name]
    return cls(policy, environment(), seed=3, **copy.deepcopy(options))


def state(model: Any) -> dict[str, Any]:
    """All that an interruption could change of a finished training."""
    noise = model.action_noise
    found = {
        "networks": _plain(model.get_parameters()),
        "tensors": _plain({name: getattr(model, name) for name in model._get_torch_save_params()[1]}),
        "counts": (model.num_timesteps, model._episode_num, model._n_updates, getattr(model, "baseline", None)),
        "episodes": [(float(episode["r"]), episode["l"]) for episode in model.ep_info_buffer],
        "noise": _plain([getattr(n, "noise_prev", None) for n in getattr(noise, "noises", [noise])]),
    }
    if hasattr(model, "replay_buffer"):
        buffer = model.replay_buffer
        columns = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        found["buffer"] = _plain([getattr(buffer, column) for column in columns]), buffer.pos, buffer.full
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.detach().tolist() if isinstance(value, torch.Tensor) else np.asarray(value).tolist()


class Interrupted(Exception):
    """Raised where a test wants it."""


@contextmanager
def interrupted_at_line(number: int) -> Iterator[list[int]]:
    """Raises before so many lines of this library and of SB3 have been run in the block; counts them."""
    count = [0]
    root = str(Path(meta.__file__).parent.parent)

    def of_line(_frame: Any, event: str, _argument: Any) -> Any:
        count[0] += event == "line"
        if count[0] == number:
            sys.settrace(None)
            raise Interrupted
        return of_line

    def of_call(frame: Any, _event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        watched = (f"{root}/meta", f"{root}/agents", "algorithm.py", "td3.py", "sac.py", "ppo.py")
        return of_line if any(part in file for part in watched) else None

    before = sys.gettrace()
    sys.settrace(of_call)
    try:
        yield count
    finally:
        sys.settrace(before)


def scramble(seed: int) -> None:
    """What a new process would not have either."""
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    random.seed(seed)


def goes_on(name: str, path: Path) -> Any:
    scramble(99)
    again = TEACHERS[name][0].load(path, env=TEACHERS[name][2]())
    return again.learn(TOTAL - again.num_timesteps, reset_num_timesteps=False)


@pytest.mark.parametrize("name", TEACHERS)
def test_wherever_it_is_interrupted(name: str, tmp_path: Path) -> None:
    unbroken, rng = made(name), random.Random(name)
    with interrupted_at_line(-1) as lines:
        unbroken.learn(TOTAL)
    wanted = state(unbroken)
    for place in (rng.randrange(1, lines[0]) for _ in range(2)):
        model = made(name)
        with pytest.raises(Interrupted), interrupted_at_line(place):
            model.learn(TOTAL)
        model.save(tmp_path / "model")
        assert state(goes_on(name, tmp_path / "model")) == wanted, place
    model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)
    assert state(model) == wanted


class SaveAt(BaseCallback):
    """Saves at every moment at which callbacks are called, the times numbered."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.times = folder, 0

    def _on_step(self) -> bool:
        self.saved("step")
        return True

    def _on_rollout_start(self) -> None:
        self.saved("start")

    def _on_rollout_end(self) -> None:
        self.saved("end")

    def _on_training_end(self) -> None:
        self.saved("finish")

    def saved(self, moment: str) -> None:
        self.times += 1
        assert self.model is not None
        self.model.save(self.folder / f"{self.times:03}-{moment}")


@pytest.mark.parametrize("name", ["DDPG", "SAC", "PPO", "RMD", "DynamicLossTeacher", WRAPPED])
def test_whenever_a_callback_saves(name: str, tmp_path: Path) -> None:
    """Also in mid-episode, of which the monitors know the beginning; and when half of the training is done."""
    wanted = state(made(name).learn(TOTAL))
    half = made(name)
    half.learn(TOTAL // 2, callback=SaveAt(tmp_path))
    files = sorted(tmp_path.iterdir())
    last = {file.stem.split("-")[1]: file for file in files}
    assert set(last) == {"step", "start", "end", "finish"}
    for file in {*last.values(), files[len(files) // 2]}:
        assert state(goes_on(name, file)) == wanted, file


@pytest.mark.parametrize("name", ["DDPG", "PPO", "RMD"])
def test_an_interruption_leaves_the_model_at_the_mark(name: str, tmp_path: Path) -> None:
    """What is saved then is what it predicts, and learning goes on in the same process as it does from the file."""
    wanted = state(made(name).learn(TOTAL))
    model = made(name)
    optimizer = getattr(model, "critic", model.policy).optimizer
    step, calls = optimizer.step, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        step(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted

    optimizer.step = failing
    with pytest.raises(Interrupted):
        model.learn(TOTAL)
    observations = np.random.default_rng(0).random((3, 6)).astype(np.float32)
    model.save(tmp_path / "model")
    saved = TEACHERS[name][0].load(tmp_path / "model")
    actions = [each.predict(observations, deterministic=True)[0] for each in (saved, model)]
    np.testing.assert_array_equal(*actions)
    model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)
    assert state(model) == wanted
    model.policy.load_state_dict({key: torch.zeros_like(v) for key, v in model.policy.state_dict().items()})
    model.save(tmp_path / "model")  # what was changed after learning is not taken back
    assert not any(p.any() for p in TEACHERS[name][0].load(tmp_path / "model").policy.parameters())


class Failing(BaseCallback):
    """Raises before the first step."""

    def _init_callback(self) -> None:
        raise Interrupted

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["DDPG", "PPO", "RMD", "EvolutionStrategies", WRAPPED])
def test_an_interruption_before_the_first_episode(name: str, tmp_path: Path) -> None:
    """Seeds of the environment are used up then, and nothing is learned yet."""
    wanted = state(made(name).learn(TOTAL))
    model = made(name)
    reset = model.env.reset

    def failing() -> None:
        reset()
        scramble(98)
        raise Interrupted

    model.env.reset = failing
    with pytest.raises(Interrupted):
        model.learn(TOTAL)
    model.env.reset = reset
    model.save(tmp_path / "model")
    assert state(goes_on(name, tmp_path / "model")) == wanted
    scramble(97)
    assert state(model.learn(TOTAL, reset_num_timesteps=False)) == wanted


def test_an_interruption_at_the_start_of_a_second_training(tmp_path: Path) -> None:
    """It goes on with that one, not with the first."""
    model, unbroken = made("DDPG").learn(TOTAL), made("DDPG").learn(TOTAL)
    scramble(1)
    wanted = state(unbroken.learn(TOTAL))
    scramble(1)
    with pytest.raises(Interrupted):
        model.learn(TOTAL, callback=Failing())
    model.save(tmp_path / "model")
    assert state(goes_on("DDPG", tmp_path / "model")) == wanted
    assert state(model.learn(TOTAL, reset_num_timesteps=False)) == wanted


def modes() -> tuple[Any, ...]:
    functions, level, drawn = torch._C._len_torch_function_stack(), forward_ad._current_level, torch.get_rng_state()
    on = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return on, functions, _hooks(), level, np.geterr(), drawn.tolist()


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


LEFT: dict[str, Callable[[], Any]] = {
    "gradients off": torch.no_grad,
    "a function mode": lambda: DifferentiableKernels(fused=True),
    "hooks": lambda: torch.autograd.graph.saved_tensors_hooks(same, same),
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "forward mode": forward_ad.dual_level,
    "NumPy's warnings": lambda: np.errstate(all="raise"),
    "another seed": lambda: torch_seed(3, Purpose.INIT),
}


@pytest.mark.parametrize("way", ["__enter__", "__exit__"])
@pytest.mark.parametrize("kind", LEFT)
def test_modes_are_kept(kind: str, way: str) -> None:
    """The error comes as a context manager returns from its entry, or begins its exit; and is kept, as notebooks do."""

    def of_call(frame: Any, event: str, _argument: Any) -> Any:
        if frame.f_code is code:
            if way == "__exit__" or event == "return":
                sys.settrace(None)
                raise Interrupted
            return of_call
        return None

    def interrupted() -> None:
        with modes_kept():
            sys.settrace(of_call)
            with LEFT[kind]():
                pass

    before, traced, code = modes(), sys.gettrace(), getattr(type(LEFT[kind]()), way).__code__
    try:
        with pytest.raises(Interrupted) as caught:
            interrupted()
    finally:
        sys.settrace(traced)
    assert modes() == before
    del caught
    assert modes() == before


def test_an_interrupted_call_leaves_the_policy_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """`EvolutionStrategies` calls the policy with others in their place."""
    wanted, swap = state(made("EvolutionStrategies").learn(TOTAL)), NamedMemberAccessor.swap_tensors_dict
    model = made("EvolutionStrategies")

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        swap(*args, **kwargs)
        raise Interrupted

    monkeypatch.setattr(NamedMemberAccessor, "swap_tensors_dict", interrupted)
    with pytest.raises(Interrupted):
        model.learn(TOTAL)
    monkeypatch.undo()
    assert state(model.learn(TOTAL, reset_num_timesteps=False)) == wanted


def test_learning_turns_gradients_on() -> None:
    """An interruption elsewhere may have left them off."""
    wanted = state(made("RMD").learn(TOTAL))
    with torch.no_grad():
        assert state(made("RMD").learn(TOTAL)) == wanted
        assert not torch.is_grad_enabled()


class Growing(gym.Wrapper[Any, Any, Any, Any]):
    """Somebody's wrapper, whose rewards depend on all steps before."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) * self.steps, *rest


class GrowingBatch(gym.vector.VectorWrapper):
    """The same of a batch."""

    steps = 0

    def step(self, actions: Any) -> Any:
        self.steps += 1
        observations, rewards, *rest = self.env.step(actions)
        return observations, rewards * self.steps, *rest


wrappers = gym.wrappers
REMEMBERING: dict[str, Callable[[], Any]] = {
    "NormalizeObservation": lambda: wrappers.NormalizeObservation(single()),
    "NormalizeReward": lambda: wrappers.NormalizeReward(single()),
    "RecordEpisodeStatistics": lambda: wrappers.RecordEpisodeStatistics(single()),
    "StickyAction": lambda: wrappers.StickyAction(single(), 0.5),
    "DelayObservation": lambda: wrappers.DelayObservation(single(), 2),
    "FrameStackObservation": lambda: wrappers.FlattenObservation(wrappers.FrameStackObservation(single(), 2)),
    "two of a kind": lambda: wrappers.NormalizeReward(wrappers.NormalizeReward(single(), gamma=0.5)),
    "one of your own": lambda: Growing(single()),
    "in a DummyVecEnv": lambda: DummyVecEnv([lambda: Growing(single())] * 2),
    "around a batch": lambda: GrowingBatch(batch()),
}


@pytest.mark.parametrize("kind", REMEMBERING)
def test_what_wrappers_remember_is_in_the_checkpoint(kind: str, tmp_path: Path) -> None:
    def teacher() -> agents.DDPG:
        return agents.DDPG("MlpPolicy", REMEMBERING[kind](), seed=3, **REPLAY)

    wanted = state(teacher().learn(TOTAL))
    half = teacher().learn(6)  # in mid-episode
    half.save(tmp_path / "model")
    scramble(99)
    again = agents.DDPG.load(tmp_path / "model", env=REMEMBERING[kind]())
    assert state(again.learn(TOTAL - again.num_timesteps, reset_num_timesteps=False)) == wanted


def test_a_wrapper_of_other_arguments_is_refused(tmp_path: Path) -> None:
    def env(gamma: float) -> Any:
        return wrappers.NormalizeReward(single(), gamma)

    agents.DDPG("MlpPolicy", env(0.5), **REPLAY).learn(4).save(tmp_path / "model")
    again = agents.DDPG.load(tmp_path / "model", env=env(0.9))
    with pytest.raises(ValueError, match=r"a NormalizeReward with .*0\.5.*, found one with .*0\.9.*; wrap"):
        again.learn(4, reset_num_timesteps=False)


def test_what_gymnasium_puts_around_everything_makes_no_difference(tmp_path: Path) -> None:
    agents.DDPG("MlpPolicy", single(), **REPLAY).learn(4).save(tmp_path / "model")
    env = wrappers.OrderEnforcing(wrappers.PassiveEnvChecker(single()))
    again = agents.DDPG.load(tmp_path / "model", env=env)
    assert again.learn(4, reset_num_timesteps=False).num_timesteps == 8


def test_an_environment_to_load_with_may_be_named(tmp_path: Path) -> None:
    meta.RMD("MlpPolicy", "TeachDigits-v0").save(tmp_path / "model")
    assert meta.RMD.load(tmp_path / "model", env="TeachDigits-v0").env.num_envs == 1


def test_an_environment_in_other_wrappers_is_refused() -> None:
    env = normalized()
    env.reset()
    states = wrapper_states(env)
    with pytest.raises(ValueError, match="the wrappers VecNormalize, VecMonitor, TimeLimit, found Monitor; wrap"):
        set_wrapper_states(DummyVecEnv([lambda: Monitor(single())] * 2), states)


_SAVES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_resume import made
import meta
folder = Path(sys.argv[2])
teachers = [made("DDPG") for _ in range(2)]
losses = [meta.TaughtLoss.of(made("RMD")) for _ in range(2)]
for i in range(2):
    for module in (teachers[i].policy, losses[i].actor):
        module.load_state_dict({name: value * 0 + i + 1 for name, value in module.state_dict().items()})
    losses[i].config["learning_rate"] = i + 1
while True:
    for i in range(2):
        teachers[i].save(folder / "teacher.zip")
        losses[i].save(folder / "loss")
        print(flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_killed_saves_leave_the_old_or_the_new(tmp_path: Path) -> None:
    program = [sys.executable, "-c", _SAVES, str(Path(__file__).parent), str(tmp_path / "saved")]
    process = subprocess.Popen(program, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2 * random.random())
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    weights = {float(p.detach().mean()) for p in agents.DDPG.load(tmp_path / "saved" / "teacher").policy.parameters()}
    assert weights in ({1.0}, {2.0})
    loss = meta.TaughtLoss.load(tmp_path / "saved" / "loss")
    assert all(bool((p == loss.config["learning_rate"]).all()) for p in loss.actor.parameters())
    left = sorted(file.name for file in tmp_path.rglob("*") if file.is_file())
    assert left == ["taught_loss.zip", "teacher.zip"]  # loading removes what the killed save left
