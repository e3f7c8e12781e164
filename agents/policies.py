"""SB3's actor-critic policies with the teachers' actors, which start near the zero action: the neutral teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import torch
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.sac.policies import Actor as SB3GaussianActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as SB3Actor
from stable_baselines3.td3.policies import TD3Policy

from meta.teachers.policies import INITIAL_SCALE, Attention, PerSample, perceptron, sample_fields

Network = Callable[..., torch.nn.Module]
"""Makes the network from features to an action: called with the number of features, that of an action's coordinates,
and `squash`, whether it ends in tanh."""


class Actor(SB3Actor):
    """SB3's deterministic actor with another network.

    Args:
        network: the function that makes the network; None: SB3's own network.
        **kwargs: options of SB3's actor.
    """

    def __init__(self, *args: Any, network: Network | None = None, **kwargs: Any) -> None:
        """Puts the network in the place of SB3's, if there is one."""
        super().__init__(*args, **kwargs)
        self.network = network
        if network is not None:
            self.mu = network(self.features_dim, get_action_dim(self.action_space), squash=True)  # type: ignore[assignment]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"network": self.network}


class GaussianActor(SB3GaussianActor):
    """SB3's actor of SAC with another network for the mean; SB3 squashes the sum of mean and noise by tanh.

    Args:
        network: the function that makes the network of the mean; noise then depends on the features themselves. None:
            SB3's own network.
        initial_noise: the standard deviation of the noise at the start; with gSDE that in a state whose features have a
            mean square of 1. None: SB3's start.
        **kwargs: options of SB3's actor.
    """

    def __init__(
        self, *args: Any, network: Network | None = None, initial_noise: float | None = None, **kwargs: Any
    ) -> None:
        """Builds the networks of the mean and of the standard deviation."""
        super().__init__(*args, **kwargs)
        self.network, self.initial_noise = network, initial_noise
        actions = get_action_dim(self.action_space)
        width: int = self.features_dim if network is not None or not self.net_arch else self.net_arch[-1]
        if self.use_sde:
            start = self.log_std_init if initial_noise is None else log_std(initial_noise, width)
            _, self.log_std = self.action_dist.proba_distribution_net(width, start, width)
        elif network is not None or initial_noise is not None:
            spread = torch.nn.Linear(width, actions)
            if initial_noise is not None:
                torch.nn.init.zeros_(spread.weight)
                torch.nn.init.constant_(spread.bias, log_std(initial_noise, None))
            self.log_std = spread  # type: ignore[assignment]
        if network is not None:
            self.latent_pi = torch.nn.Sequential()
            self.mu = network(self.features_dim, actions, squash=False)
            if self.use_sde and self.clip_mean > 0:
                self.mu = torch.nn.Sequential(self.mu, torch.nn.Hardtanh(-self.clip_mean, self.clip_mean))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        options = {"network": self.network, "initial_noise": self.initial_noise}
        return super()._get_constructor_parameters() | options


class Small:
    """The network from observation to action: a perceptron whose last layer is drawn small.

    Args:
        initial_scale: the factor of the last layer's weights when they are drawn; None: SB3's network as SB3 draws it.
        **kwargs: options of SB3's policy.
    """

    sb3s_network: ClassVar[bool] = False
    """Whether the policy may have SB3's network as SB3 draws it."""
    actor_kwargs: dict[str, Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def __init__(
        self,
        observation_space: gym.Space[Any],
        *args: Any,
        initial_scale: float | None = INITIAL_SCALE,
        **kwargs: Any,
    ) -> None:
        self.initial_scale = initial_scale
        if isinstance(observation_space, gym.spaces.Dict):
            kwargs.setdefault("features_extractor_class", CombinedExtractor)
        super().__init__(observation_space, *args, **kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        return parameters | {"initial_scale": self.initial_scale}

    def _network(self) -> Network | None:
        return None if self.initial_scale is None else partial(perceptron, **self._start(), **self._layers())

    def _start(self) -> dict[str, Any]:
        return {"initial_scale": self.initial_scale}

    def _layers(self) -> dict[str, Any]:
        return {name: self.actor_kwargs[name] for name in ("net_arch", "activation_fn")}


class Attentive(Small):
    """L2T-DLF's network W softmax(V s) (Wu et al. 2018); option `keys` (10)."""

    def __init__(self, *args: Any, keys: int = 10, **kwargs: Any) -> None:
        self.keys = keys
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"keys": self.keys}

    def _network(self) -> Network:
        return partial(Attention, keys=self.keys, **self._start())


class Shared(Small):
    """A perceptron for all samples of a minibatch; option `features` (as many as the observation has)."""

    def __init__(self, *args: Any, features: int | None = None, **kwargs: Any) -> None:
        self.features = features
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"features": self.features}

    def _network(self) -> Network:
        features = sample_fields(self.observation_space, get_action_dim(self.action_space), self.features)
        return partial(PerSample, features=features, **self._start(), **self._layers())


class _Deterministic(Small, TD3Policy):
    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Builds the actor with the teachers' network; SB3 calls this."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return Actor(**kwargs, network=self._network()).to(self.device)


class MlpPolicy(_Deterministic):
    """SB3's MlpPolicy of DDPG and TD3; the actor's last layer is drawn small."""

    sb3s_network = True


class AttentionPolicy(Attentive, _Deterministic):
    """L2T-DLF's actor μ_θ(s) = tanh(W softmax(V s)) with SB3's critic; option `keys` (10)."""


class SamplePolicy(Shared, _Deterministic):
    """`meta.teachers.policies.PerSample` as actor, with SB3's critic; option `features` (as many as observed)."""


class Gaussian(Small):
    """A policy with Gaussian noise that it learns, inside tanh; the network is that of the mean before tanh.

    Args:
        initial_noise: the standard deviation of the noise at the start; None: SB3's start.
        log_std_init: SB3's logarithm of the noise at the start, where it takes the place of `initial_noise`: with gSDE,
            and in policies of rollouts.
        **kwargs: options of SB3's policy.

    Raises:
        ValueError: the noise is not positive.
    """

    log_std_start: ClassVar[float]
    """SB3's default of `log_std_init`."""
    log_std_always: ClassVar[bool] = False
    """Whether SB3's policy reads `log_std_init` without gSDE, too."""

    def __init__(
        self, *args: Any, initial_noise: float | None = 0.1, log_std_init: float | None = None, **kwargs: Any
    ) -> None:
        if initial_noise is not None and not initial_noise > 0:
            raise ValueError(f"noise must be positive, since its logarithm is learned, found {initial_noise}")
        log_std_given = log_std_init is not None and (self.log_std_always or kwargs.get("use_sde", False))
        self.initial_noise = None if log_std_given else initial_noise
        super().__init__(*args, log_std_init=self.log_std_start if log_std_init is None else log_std_init, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"initial_noise": self.initial_noise}


def log_std(noise: float, sde_width: int | None) -> float:
    """Returns the logarithm with which noise of a standard deviation begins.

    Args:
        noise: the standard deviation; with gSDE that in a state whose features have a mean square of 1.
        sde_width: with gSDE the number of features; the noise is a random matrix times the features: so many
            independent terms. None: no gSDE.
    """
    return math.log(noise) - (0.0 if sde_width is None else math.log(sde_width) / 2)


class _SoftGaussian(Gaussian, SACPolicy):
    """SAC's policy; the mean has a network of its own, the standard deviation a layer that begins as a constant."""

    log_std_start = -3.0

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GaussianActor:
        """Builds the actor with the teachers' network; SB3 calls this."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return GaussianActor(**kwargs, network=self._network(), initial_noise=self.initial_noise).to(self.device)


class GaussianMlpPolicy(_SoftGaussian):
    """SAC's policy with a perceptron for the mean, whose last layer is drawn small; option `initial_noise` (0.1)."""

    sb3s_network = True


class GaussianAttentionPolicy(Attentive, _SoftGaussian):
    """SAC's policy with L2T-DLF's actor for the mean; options `keys` (10) and `initial_noise` (0.1)."""


class GaussianSamplePolicy(Shared, _SoftGaussian):
    """SAC's policy with `meta.teachers.policies.PerSample` for the mean.

    Its options are `features` (as many as observed) and `initial_noise` (0.1).
    """
