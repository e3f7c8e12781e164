"""Meta-Weight-Net's teacher: one step ahead, in float64 as an ordinary loop takes it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch import nn
from torch.func import functional_call

import meta
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.samples import LabelledSamples

SHOWN: dict[str, Any] = {"loss": {"name": "sample-weights", "normalise": True}, "observe_samples": True}
SMALL: dict[str, Any] = {"task": "digits", "horizon": 5, "batch_size": 6, "dev_size": 30, **SHOWN}


def made(**settings: Any) -> TeachEnv:
    return TeachEnv(**{**SMALL, **settings})


def dev_loss_ahead(env: TeachEnv, network: nn.Module) -> torch.Tensor:
    """The dev loss after a plain step under the weights of a network of the loss, with the graph of it all."""
    student: Any = env.dynamics.student.build()
    parameters = {name: p.clone().requires_grad_() for name, p in env.student.parameters.items()}
    inputs, labels = env.dynamics.minibatch(env.episode, env.student.step)
    losses = nn.functional.cross_entropy(functional_call(student, parameters, (inputs,)), labels, reduction="none")
    weights = torch.sigmoid(network(losses.detach()[:, None])[:, 0])
    loss = (weights / weights.sum() * losses).sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    rate = env.dynamics.rate(env.student.step)
    ahead = {name: p - rate * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
    inputs, labels = env.dynamics.dev(env.episode)
    return nn.functional.cross_entropy(functional_call(student, ahead, (inputs,)), labels)


def test_it_learns_as_the_papers_loop_does() -> None:
    settings = {"dtype": "float64", "momentum": 0.9, "weight_decay": 0.01}
    teacher = meta.MetaWeightNet("LossPolicy", made(**settings), 0.05, seed=3)
    twin = meta.MetaWeightNet("LossPolicy", made(**settings), seed=3)
    network: Any = twin.actor_network.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, weight_decay=1e-4)
    env = made(**settings)
    observation, _ = env.reset(seed=3)
    for _ in range(7):  # the second training has begun by then
        observation, _, ended, _, _ = env.step(twin.predict(observation)[0])
        if ended:
            observation, _ = env.reset()
        optimizer.zero_grad()
        dev_loss_ahead(env, network).backward()
        optimizer.step()
    teacher.learn(7)
    assert teacher._n_updates == 7
    found: Any = teacher.actor_network.network
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-5, atol=1e-7)
        assert not torch.allclose(value, before[name], rtol=1e-3)


def test_several_students_together_are_those_of_single_environments() -> None:
    teachers = [
        meta.MetaWeightNet("LossPolicy", env, 0.05, seed=3).learn(16)
        for env in (
            TeachVectorEnv(2, **SMALL, dtype="float64"),
            DummyVecEnv([lambda: made(dtype="float64")] * 2),  # type: ignore[list-item]
        )
    ]
    one, other = (teacher.actor_network.state_dict() for teacher in teachers)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-9)


def test_a_weight_depends_on_the_samples_loss_alone() -> None:
    env = made(dtype="float64")
    teacher = meta.MetaWeightNet("LossPolicy", env, seed=0)
    rng = np.random.default_rng(0)
    observations = rng.random((2, *env.observation_space.shape))
    place = env.observation_space.place("label_probability")  # type: ignore[attr-defined]
    observations[1, place] = observations[0, place]
    actions, _ = teacher.predict(observations)
    assert np.array_equal(actions[0], actions[1])
    network: Any = teacher.actor_network
    v = torch.sigmoid(network.network(-torch.from_numpy(observations[0, place]).log()[:, None]))[:, 0]
    np.testing.assert_allclose((1 + actions[0]) / 2, v.detach())
    never = observations[0] * 0
    assert np.isfinite(teacher.predict(never)[0]).all()


def test_wrong_labels_get_smaller_weights_where_the_loss_tells_them() -> None:
    """Of students that have trained for a while: at first a large loss says nothing of a label."""
    noisy = {"label_noise": 0.4, "label_noise_kind": "symmetric", "dev_noise": False}
    options = {**SMALL, **noisy, "horizon": 40, "batch_size": 32, "dev_size": 100, "warm_start": 40, "momentum": 0.0}
    options["learning_rate"] = 0.5
    teacher = meta.MetaWeightNet("LossPolicy", TeachVectorEnv(2, **options), 0.03, seed=0).learn(2 * 80)
    env, clean = made(**options), made().task.pool[1]
    observation, _ = env.reset(seed=7)
    of_right, of_wrong = list[float](), list[float]()
    for t in range(40):
        action, _ = teacher.predict(observation)
        weights = env.dynamics.loss.coefficients(torch.as_tensor(action))[0].numpy()
        batch = env.episode.batches[t]
        is_wrong = (env.task.pool[1][batch] != clean[batch]).numpy()
        of_wrong += weights[is_wrong].tolist()
        of_right += weights[~is_wrong].tolist()
        observation, *_ = env.step(action)
    assert np.mean(of_wrong) < 0.5 * np.mean(of_right)


def test_fields_of_samples_are_found_by_their_names() -> None:
    env = made()
    space, names = env.observation_space, env.interface.observation_fields
    for field in LabelledSamples.fields:
        assert names[space.place(field)] == tuple(f"{field}_{i}" for i in range(6))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"unknown field of observed samples 'margins', did you mean 'margin'"):
        space.place("margins")  # type: ignore[attr-defined]


def test_what_it_cannot_look_into_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected steps_per_action=1, found 5"):
        meta.MetaWeightNet("FreePolicy", TeachEnv(horizon=5, steps_per_action=5, dev_size=20))
    with pytest.raises(TypeError, match="expected a TeachEnv, found PendulumEnv"):
        meta.MetaWeightNet("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match="a policy for samples needs an environment that shows them"):
        meta.MetaWeightNet("LossPolicy", made(observe_samples=False))
    pair = gym.make("TeachDistill-v0", horizon=2, dev_size=20)
    with pytest.raises(ValueError, match="no teacher network, found task 'digits' with loss='distillation'"):
        meta.MetaWeightNet("AttentionPolicy", pair)
    with pytest.raises(ValueError, match="unknown field of observed samples 'label_probability'"):
        meta.RMD("LossPolicy", pair)
    turned = gym.wrappers.RescaleAction(made(), np.float32(-2.0), np.float32(2.0))
    with pytest.raises(ValueError, match="RescaleAction changes the actions that MetaWeightNet learns from"):
        meta.MetaWeightNet("LossPolicy", turned)
    elsewhere = SubprocVecEnv.__new__(SubprocVecEnv)  # no processes are needed to refuse them
    elsewhere.observation_space = turned.observation_space
    with pytest.raises(ValueError, match="whose students are in other processes; pass a TeachVectorEnv"):
        meta.MetaWeightNet("LossPolicy", elsewhere)


def test_a_callback_sees_the_teacher_after_the_step() -> None:
    """It may save it: what goes on from there must not begin with the observation before the step."""

    class Looks(BaseCallback):
        seen = 0

        def _on_step(self) -> bool:
            assert isinstance(self.model, meta.MetaWeightNet)
            assert self.model._last_obs is self.locals["observations"]
            assert self.locals["self"] is self.model
            assert {"actions", "rewards", "dones", "infos"} <= self.locals.keys()
            self.seen += 1
            return True

    looks = Looks()
    meta.MetaWeightNet("LossPolicy", made(), seed=3).learn(7, callback=looks)
    assert looks.seen == 7
