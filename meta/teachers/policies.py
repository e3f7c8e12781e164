"""The teacher's policy networks, shared by gradient teachers and RL teachers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import FlattenExtractor, create_mlp
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from teachenv import checks
from teachenv.spaces import SampleBox

INITIAL_SCALE = 0.01
"""The scale of a policy's last layer at the beginning: actions near zero, the neutral teacher."""


class Attention(nn.Module):
    """L2T-DLF's teacher μ_θ(s) = W softmax(V s) (Wu et al. 2018), here inside tanh, which keeps it in the box.

    The action is a convex combination of `keys` learned actions (the columns of W), chosen by the state. The paper has
    10 keys for classification, no bias and no tanh, and says nothing of the initialisation: W is drawn small, so that
    the teacher starts near the neutral zero action, with keys that differ, without which V would have no gradient.

    Args:
        states: the number of coordinates of the observation.
        actions: the number of coordinates of the action.
        keys: the number N of learned actions.
        initial_scale: the standard deviation of W's entries when they are drawn.
        static: the network gets ones in the place of the state, and takes the same action always (the ablation of what
            "dynamic" adds).
        squash: the network ends in tanh, which keeps the action in the box.
    """

    def __init__(
        self,
        states: int,
        actions: int,
        keys: int = 10,
        initial_scale: float = INITIAL_SCALE,
        static: bool = False,
        squash: bool = True,
    ) -> None:
        """Draws V as `nn.Linear` does, and W from a normal distribution."""
        super().__init__()
        self.static, self.squash = static, squash
        self.query = nn.Linear(states, keys, bias=False)
        self.keys = nn.Linear(keys, actions, bias=False)
        nn.init.normal_(self.keys.weight, std=initial_scale)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Takes observations (batch, states) to actions (batch, actions), in (-1, 1) if squashed."""
        states = torch.ones_like(states) if self.static else states
        mixed: torch.Tensor = self.keys(torch.softmax(self.query(states), dim=1))
        return torch.tanh(mixed) if self.squash else mixed


def perceptron(
    states: int,
    actions: int,
    net_arch: list[int],
    initial_scale: float = INITIAL_SCALE,
    squash: bool = True,
    activation_fn: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """SB3's perceptron, with tanh at its end, and a last layer that is drawn small: it starts near the zero action."""
    network = nn.Sequential(*create_mlp(states, actions, net_arch, activation_fn, squash_output=squash))
    last = [m for m in network if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(initial_scale)
        last.bias.zero_()
    return network


class PerSample(nn.Module):
    """One perceptron for all samples of a minibatch: a sample's weight does not depend on its place.

    The last coordinates of the observation are `features` blocks with one number for each sample (see
    `teachenv.SampleBox`); the perceptron sees a sample's own numbers and the coordinates before the blocks.

    Args:
        states: the number of coordinates of the observation.
        actions: the number of coordinates of the action: one for each sample.
        net_arch: the widths of the hidden layers.
        features: how many numbers are observed of each sample.
        initial_scale: the factor of the last layer's weights when they are drawn.
        squash: the network ends in tanh, which keeps the action in the box.
        activation_fn: the class of the activations between the layers.

    Raises:
        ValueError: the observation is too short to hold so many.
    """

    def __init__(
        self,
        states: int,
        actions: int,
        net_arch: list[int],
        features: int,
        initial_scale: float = INITIAL_SCALE,
        squash: bool = True,
        activation_fn: type[nn.Module] = nn.ReLU,
    ) -> None:
        """Checks the sizes and builds the perceptron."""
        super().__init__()
        self.features, self.shared = features, states - features * actions
        if features < 1 or self.shared < 0:
            raise ValueError(
                f"a policy for samples expects {features} numbers of each of the {actions} samples, found an "
                f"observation of {states} coordinates"
            )
        self.network = perceptron(self.shared + features, 1, net_arch, initial_scale, squash, activation_fn)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Takes observations (batch, states) to one weight for each sample, (batch, actions)."""
        shared, of_samples = states[:, : self.shared], states[:, self.shared :]
        of_samples = of_samples.reshape(len(of_samples), self.features, -1).mT
        inputs = torch.cat([shared[:, None].expand(-1, of_samples.shape[1], -1), of_samples], -1)
        weights: torch.Tensor = self.network(inputs).squeeze(-1)
        return weights


def sample_fields(space: gym.Space[Any], actions: int, chosen: int | None) -> int:
    """Returns how many numbers of each sample a policy for samples reads.

    Args:
        space: the observation space.
        actions: the number of coordinates of the action.
        chosen: the policy's option `features`; None: what the space says.

    Raises:
        ValueError: the space does not say it, or of another number of samples.
    """
    if chosen is not None and not isinstance(space, SampleBox):
        return chosen
    fields = len(sample_box(space, actions).sample_fields)
    return fields if chosen is None else chosen


def sample_box(space: gym.Space[Any], actions: int) -> SampleBox:
    """Returns the space, which shows as many samples as the action has coordinates.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(space, SampleBox):
        raise ValueError(
            "a policy for samples needs an environment that shows them: found an observation without samples; make it "
            'with loss="sample-weights" and observe_samples=True, or take another policy, such as AttentionPolicy'
        )
    if actions != space.samples:
        raise ValueError(
            f"a policy for samples gives a number for each of {space.samples} samples, found actions of size "
            f"{actions}; leave control out of the environment, or take another policy, such as AttentionPolicy"
        )
    return space


class TeacherPolicy(BasePolicy):
    """A deterministic teacher without a critic.

    Attributes:
        actor: the network of the actions.
        network_class: what builds it, whose arguments are the policy's options; None: nothing does.
        defaults: the options of a policy that nothing builds, and what they are where they are not given; None: they
            are its own affair.

    Args:
        observation_space: the observation space of the environment.
        action_space: the action space of the environment, a box.
        lr_schedule: the learning rate as a function of the remaining progress; its value at 1 is the first one.
        optimizer_class: the class of the optimiser of θ, the actor's parameters.
        optimizer_kwargs: options of that class besides the learning rate.
        **network: options of the actor; each policy names its own.
    """

    actor: nn.Module
    network_class: ClassVar[Any] = None
    defaults: ClassVar[Mapping[str, Any] | None] = None

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **network: Any,
    ) -> None:
        """Builds the actor, and its optimiser if it has parameters."""
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=FlattenExtractor,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self.features_extractor = self.make_features_extractor()
        if self.defaults is not None:
            checks.known_options(f"policy_kwargs of {type(self).__name__}", network, self.defaults)
        self._network = {**(self.defaults or {}), **network}
        taken = checks.options_of(type(self).network_class or type(self))
        with checks.suggesting(
            f"policy_kwargs of {type(self).__name__}", network, taken - {"states", "actions", "space"}, ""
        ):
            self.actor = self._build(self.features_extractor.features_dim, get_action_dim(action_space))
        self.actor.to(torch.float64 if action_space.dtype == np.float64 else torch.float32)
        parameters = list(self.actor.parameters())
        if parameters:
            # SB3 types the class as Optimizer, whose constructor takes more than its subclasses' do.
            self.optimizer = self.optimizer_class(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @abstractmethod
    def _build(self, states: int, actions: int) -> nn.Module:
        """Builds the actor: a network from observations of `states` numbers to actions of `actions` numbers."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self._network,
        }

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the actions μ_θ(s), (batch, n)."""
        features = self.extract_features(observation, self.features_extractor)
        action: torch.Tensor = self.actor(features.to(next(self.actor.parameters()).dtype))
        return action

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self(observation)  # type: ignore[no-any-return]

    @property
    def reach(self) -> np.ndarray:
        """How far an action goes where μ_θ goes by 1: half the action space's width (SB3 scales what is squashed)."""
        assert isinstance(self.action_space, gym.spaces.Box)
        return np.asarray(0.5 * (self.action_space.high - self.action_space.low))


class AttentionPolicy(TeacherPolicy):
    """`Attention`; options `keys` (10), `initial_scale` (0.01) and `static` (False)."""

    network_class = Attention

    def _build(self, states: int, actions: int) -> nn.Module:
        return Attention(states, actions, **self._network)


class MlpPolicy(TeacherPolicy):
    """SB3's perceptron; options `net_arch` ([400, 300], SB3's for DDPG), `initial_scale` (0.01) and `activation_fn`."""

    network_class = perceptron

    def _build(self, states: int, actions: int) -> nn.Module:
        return perceptron(states, actions, **{"net_arch": [400, 300], **self._network})


class SamplePolicy(TeacherPolicy):
    """`PerSample`; options `net_arch` ([32]), `initial_scale` (0.01), `features` (as many as the observation has)."""

    network_class = PerSample

    def _build(self, states: int, actions: int) -> nn.Module:
        options = {"net_arch": [32], **self._network}
        options["features"] = sample_fields(self.observation_space, actions, options.get("features"))
        return PerSample(states, actions, **options)


class _Free(nn.Module):
    """One learned number for each coordinate of the action, in each segment of a training run.

    Args:
        actions: the number of coordinates of the action.
        segments: into how many equal parts of a training its steps fall.

    Raises:
        ValueError: `segments` is no whole number of at least 1.
    """

    def __init__(self, actions: int, segments: int = 1) -> None:
        super().__init__()
        self.segments = checks.integer("segments", segments, least=1)
        shape = (actions,) if segments == 1 else (segments, actions)
        self.action = nn.Parameter(torch.zeros(shape))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        action = torch.tanh(self.action)
        if self.segments == 1:
            return action.expand(len(states), -1)
        # Progress comes first in every observation; just before a boundary it may be rounded down.
        place = (states[:, 0] * self.segments + 1e-4).long().clamp(0, self.segments - 1)
        return (place[:, None] == torch.arange(self.segments, device=place.device)).to(action) @ action


class FreePolicy(TeacherPolicy):
    """The same action in every state, tanh(θ), each coordinate of which is learned; it begins at the zero action.

    With `loss="data-weights"` these are the weights of the training samples themselves, by gradient descent. Option
    `segments` (1): in each of so many equal parts of a training another action, as schedules are learned with shared
    hyperparameters (FDS, Micaelli and Storkey 2021).
    """

    network_class = _Free

    def _build(self, states: int, actions: int) -> nn.Module:
        return _Free(actions, **self._network)


class SameActionPolicy(TeacherPolicy):
    """The same action in every state: the buffer `action` of its actor, (n,)."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the same action for each observation, (batch, n)."""
        action: torch.Tensor = self.actor.action.expand(len(observation), -1)  # type: ignore[operator]
        return action


class ConstantPolicy(SameActionPolicy):
    """The same action always; `action`: a number for all coordinates, or one for each (0: the neutral teacher)."""

    defaults: ClassVar[Mapping[str, Any]] = {"action": 0.0}

    def _build(self, states: int, actions: int) -> nn.Module:
        module = nn.Module()
        value = torch.as_tensor(self._network["action"], dtype=torch.float64)
        if value.shape not in ((), (actions,)):
            raise ValueError(
                f"action must be a number or {actions} numbers, one for each coordinate, found shape "
                f"{tuple(value.shape)}"
            )
        module.register_buffer("action", value.expand(actions).clone())
        return module


class RandomPolicy(TeacherPolicy):
    """Uniform in the box; option `seed` (0). How often it was asked is saved too, so that it goes on after a load."""

    defaults: ClassVar[Mapping[str, Any]] = {"seed": 0}

    def _build(self, states: int, actions: int) -> nn.Module:
        module = nn.Module()
        module.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        return module

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns uniform numbers in [-1, 1), (batch, n); `deterministic` makes no difference."""
        draws = self.actor.draws
        assert isinstance(draws, torch.Tensor)
        assert isinstance(self.action_space, gym.spaces.Box)
        rng = np.random.default_rng((self._network["seed"], int(draws)))
        draws += 1
        uniform = rng.uniform(-1.0, 1.0, (len(observation), *self.action_space.shape))
        return torch.from_numpy(uniform).to(observation.device)
