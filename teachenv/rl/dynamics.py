"""A student that learns by reinforcement as pure functions: begin, collect a rollout, update, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch

from teachenv.optimizers.base import Tensors
from teachenv.randomness import Purpose, generator
from teachenv.rl.coefficients import Coefficients
from teachenv.rl.physics import PHYSICS, Physics
from teachenv.rl.policy import Actor, Distribution, draw, outputs
from teachenv.rl.ppo import PPO, Rollout
from teachenv.rl.settings import ControlSettings


@dataclass(frozen=True, eq=False)
class ControlStudent:
    """A student between two updates, a value; nothing changes it.

    Attributes:
        parameters: of policy and value network.
        slots: Adam's.
        worlds: states of the copies of the task, which rollouts go on from, (copies, state coordinates).
        elapsed: steps of each copy's present episode, (copies,).
        updates: updates so far.
        step: Adam's steps so far.
    """

    parameters: Tensors
    slots: Tensors
    worlds: np.ndarray
    elapsed: np.ndarray
    updates: int
    step: int

    def saved(self) -> dict[str, Any]:
        """The student as plain values, which later steps leave as they are."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def loaded(cls, saved: Mapping[str, Any]) -> ControlStudent:
        """The student that `saved` was made of."""
        return cls(**saved)


class Learned(NamedTuple):
    """What is known of a student after an update; numbers.

    Attributes:
        loss: PPO's, the mean over the update's minibatches.
        value_loss: the value network's part of it, without its weight.
        entropy: mean entropy of the policy in the rollout's states, in nats.
        explained_variance: 1 − var(R − V)/var(R) of the rollout's values before the update; 0 of equal returns.
        kl: mean KL(policy before ‖ policy after) in the rollout's states.
    """

    loss: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    explained_variance: float = 0.0
    kl: float = 0.0


def explained_variance(advantages: torch.Tensor, values: torch.Tensor) -> float:
    """1 − var(R − V)/var(R) of returns R; 0 of returns that are all the same up to rounding.

    Args:
        advantages: R − V, of any shape.
        values: V, of that shape.
    """
    spread = (advantages + values).var(correction=0)
    rounding = 16 * torch.finfo(values.dtype).eps * torch.maximum(advantages.abs().max(), values.abs().max())
    return float(1 - advantages.var(correction=0) / spread) if spread > rounding.square() else 0.0


@dataclass(frozen=True)
class ControlDynamics:
    """The training of a student by PPO; all randomness is a function of (the episode's seed, updates so far).

    Attributes:
        settings: of the environment.
    """

    settings: ControlSettings

    @property
    def physics(self) -> Physics:
        """The control task."""
        return PHYSICS[self.settings.task]

    @property
    def ppo(self) -> PPO:
        """The student's algorithm."""
        s = self.settings
        return PPO(s.epochs, s.batch_size, s.trace, s.max_grad_norm)

    def init(self, seed: int) -> ControlStudent:
        """The untrained student of an episode."""
        parameters = draw(self.physics, self.settings.hidden, getattr(torch, self.settings.dtype), seed)
        uniform = generator(seed, Purpose.WARM_START).random((self.settings.copies, self.physics.state_size))
        elapsed = np.zeros(self.settings.copies, np.int64)
        return ControlStudent(
            parameters, self.ppo.optimizer.init(parameters), self.physics.begin(uniform), elapsed, 0, 0
        )

    def coefficients(self, action: Any) -> Coefficients:
        """PPO's coefficients under an action, an array, or a tensor to differentiate by."""
        return self.settings.coefficients.under(self.settings.control, action)

    def collect(self, student: ControlStudent, seed: int) -> tuple[Rollout, np.ndarray, np.ndarray]:
        """The rollout that the student learns from next: the same whenever it is asked for.

        Returns:
            The rollout, and the copies' states and elapsed steps after it.
        """
        s, physics = self.settings, self.physics
        random, shape = generator(seed, Purpose.ROLLOUT, student.updates), (s.rollout_steps, s.copies)
        noise = random.gumbel(size=(*shape, physics.choices)) if physics.choices else random.normal(size=(*shape, 1))
        anew = physics.begin(random.random((*shape, physics.state_size)))
        actor, worlds, elapsed = Actor(student.parameters, physics), student.worlds, student.elapsed
        seen, done, rewards, starts = [], [], [], [elapsed == 0]
        cuts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for t in range(s.rollout_steps):
            seen.append(physics.observe(worlds))
            done.append(actor.drawn(seen[-1], noise[t]))
            worlds, reward, ended = physics.step(worlds, done[-1])
            elapsed = elapsed + 1
            cut = (elapsed >= physics.limit) & ~ended
            rewards.append(reward)
            if cut.any():
                cuts[t] = cut, physics.observe(worlds[cut])
            over = ended | cut
            worlds, elapsed = np.where(over[:, None], anew[t], worlds), np.where(over, 0, elapsed)
            starts.append(over)
        seen.append(physics.observe(worlds))
        return self._judged(student.parameters, seen, done, rewards, starts, cuts), worlds, elapsed

    def _judged(
        self,
        parameters: Tensors,
        seen: list[np.ndarray],
        done: list[np.ndarray],
        rewards: list[np.ndarray],
        starts: list[np.ndarray],
        cuts: dict[int, tuple[np.ndarray, np.ndarray]],
    ) -> Rollout:
        """A rollout with the values and probabilities that the student's networks give it.

        Args:
            parameters: the student's.
            seen: observations before each step, and after the last.
            done: actions.
            rewards: what they brought.
            starts: whether an episode begins there.
            cuts: by the step, which copies' episodes the time limit cut off, and what was observed last in them.
        """
        dtype = getattr(torch, self.settings.dtype)
        observations, actions = torch.as_tensor(np.stack(seen), dtype=dtype), torch.as_tensor(np.stack(done))
        with torch.no_grad():
            values = outputs(parameters, "value", observations).squeeze(-1)
            acted = Distribution.of(parameters, observations[:-1].flatten(0, 1))
            log_prob = acted.log_prob(actions.flatten(0, 1)).view(values[:-1].shape)
            beyond = torch.zeros_like(values[:-1])
            for t, (cut, last) in cuts.items():
                ended = outputs(parameters, "value", torch.as_tensor(last, dtype=dtype))
                beyond[t, torch.as_tensor(cut)] = ended.squeeze(-1)
        begun = torch.as_tensor(np.stack(starts), dtype=dtype)
        gained = torch.as_tensor(np.stack(rewards), dtype=dtype)
        return Rollout(observations[:-1], actions, gained, begun, log_prob, values, beyond)

    def update(
        self, student: ControlStudent, rollout: Rollout, action: Any, seed: int
    ) -> tuple[Tensors, Tensors, int, float, float]:
        """The student's networks after learning from a rollout under an action.

        They have a graph where the action is a tensor that requires a gradient.

        Returns:
            Parameters, slots, Adam's steps, the loss, and the value network's.
        """
        random = generator(seed, Purpose.BATCHES, student.updates)
        parameters, slots, step, losses = self.ppo.update(
            student.parameters, student.slots, student.step, rollout, self.coefficients(action), random
        )
        return parameters, slots, step, float(losses.loss), float(losses.value)

    def step(self, student: ControlStudent, action: np.ndarray, seed: int) -> tuple[ControlStudent, Learned]:
        """A rollout, and the update under the action."""
        rollout, worlds, elapsed = self.collect(student, seed)
        parameters, slots, step, loss, value_loss = self.update(student, rollout, action, seed)
        after = ControlStudent(parameters, slots, worlds, elapsed, student.updates + 1, step)
        with torch.no_grad():
            states = rollout.observations.flatten(0, 1)
            before, now = (Distribution.of(p, states) for p in (student.parameters, parameters))
            advantages = rollout.advantages(self.coefficients(action).discount, self.ppo.trace)
            explained = explained_variance(advantages, rollout.values[:-1])
            kl, entropy = now.divergence_from(before).mean(), now.entropy().mean()
        return after, Learned(loss, value_loss, float(entropy), explained, float(kl))

    def entropy(self, student: ControlStudent) -> float:
        """Mean entropy of the policy in the copies' present states, in nats."""
        states = torch.as_tensor(self.physics.observe(student.worlds), dtype=getattr(torch, self.settings.dtype))
        return float(Distribution.of(student.parameters, states).entropy().mean())

    def mean_return(self, student: ControlStudent, seed: int, purpose: Purpose, episodes: int) -> float:
        """Mean return of episodes in which the student takes its most likely actions.

        They begin alike for all students of one seed and purpose: common random numbers.
        """
        physics, actor = self.physics, Actor(student.parameters, self.physics)
        worlds = physics.begin(generator(seed, purpose).random((episodes, physics.state_size)))
        returns, going = np.zeros(episodes), np.arange(episodes)
        for _ in range(physics.limit):
            worlds, rewards, ended = physics.step(worlds, actor.best(physics.observe(worlds)))
            returns[going] += rewards
            worlds, going = worlds[~ended], going[~ended]
            if not len(going):
                break
        return float(returns.mean())

    def objective(self, mean_return: float) -> float:
        """J: a mean return, brought to [0, 1] by the lowest and the highest that the task allows."""
        lowest, highest = self.physics.returns
        return (mean_return - lowest) / (highest - lowest)
