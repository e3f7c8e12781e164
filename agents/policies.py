"""SB3's actor-critic policies with the teachers' actors, which start near the zero action: the neutral teacher."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import Actor as GaussianActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor, TD3Policy

from meta.policies import FEATURES, INITIAL_SCALE, Attention, PerSample, perceptron


class _Small:
    """The network from observation to action: a perceptron whose last layer is drawn small."""

    actor_kwargs: dict[str, Any]

    def __init__(self, *args: Any, initial_scale: float = INITIAL_SCALE, **kwargs: Any) -> None:
        self.initial_scale = initial_scale
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | {"initial_scale": self.initial_scale}

    def _network(self, states: int, actions: int, squash: bool) -> torch.nn.Module:
        net_arch: list[int] = self.actor_kwargs["net_arch"]
        return perceptron(states, actions, net_arch, self.initial_scale, squash)


class _Attentive(_Small):
    """L2T-DLF's: W softmax(V s); option `keys` (10)."""

    def __init__(self, *args: Any, keys: int = 10, **kwargs: Any) -> None:
        self.keys = keys
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"keys": self.keys}

    def _network(self, states: int, actions: int, squash: bool) -> torch.nn.Module:
        return Attention(states, actions, self.keys, self.initial_scale, squash=squash)


class _Shared(_Small):
    """A perceptron for all samples of a minibatch; option `features` (4: those of `TeachDistill-v0`)."""

    def __init__(self, *args: Any, features: int = FEATURES, **kwargs: Any) -> None:
        self.features = features
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"features": self.features}

    def _network(self, states: int, actions: int, squash: bool) -> torch.nn.Module:
        return PerSample(states, actions, self.actor_kwargs["net_arch"], self.features, self.initial_scale, squash)


class _Deterministic(_Small, TD3Policy):
    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """SB3's actor with its network exchanged."""
        actor = super().make_actor(features_extractor)
        actor.mu = self._network(actor.features_dim, self.action_space.shape[0], squash=True)  # type: ignore[index, assignment]
        return actor.to(self.device)


class MlpPolicy(_Deterministic):
    """SB3's MlpPolicy of DDPG and TD3; the actor's last layer is drawn small."""


class AttentionPolicy(_Attentive, _Deterministic):
    """L2T-DLF's actor μ_θ(s) = tanh(W softmax(V s)) with SB3's critic; option `keys` (10)."""


class SamplePolicy(_Shared, _Deterministic):
    """`meta.policies.PerSample` as actor, with SB3's critic; option `features` (4)."""


class _Gaussian(_Small, SACPolicy):
    """The mean has a network of its own; the standard deviation a layer that begins as a constant."""

    def __init__(self, *args: Any, initial_noise: float = 0.1, **kwargs: Any) -> None:
        self.initial_noise = initial_noise
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"initial_noise": self.initial_noise}

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GaussianActor:
        """SB3's actor with its networks exchanged; SB3 squashes the sum of mean and noise by tanh."""
        actor = super().make_actor(features_extractor)
        actions: int = self.action_space.shape[0]  # type: ignore[index]
        spread = torch.nn.Linear(actor.features_dim, actions)
        torch.nn.init.zeros_(spread.weight)
        torch.nn.init.constant_(spread.bias, math.log(self.initial_noise))
        actor.latent_pi = torch.nn.Sequential()
        actor.mu = self._network(actor.features_dim, actions, squash=False)
        actor.log_std = spread  # type: ignore[assignment]
        return actor.to(self.device)


class GaussianMlpPolicy(_Gaussian):
    """SAC's policy with a perceptron for the mean, whose last layer is drawn small; option `initial_noise` (0.1)."""


class GaussianAttentionPolicy(_Attentive, _Gaussian):
    """SAC's policy with L2T-DLF's actor for the mean; options `keys` (10) and `initial_noise` (0.1)."""


class GaussianSamplePolicy(_Shared, _Gaussian):
    """SAC's policy with `meta.policies.PerSample` for the mean; options `features` (4) and `initial_noise` (0.1)."""
