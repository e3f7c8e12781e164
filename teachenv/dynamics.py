"""A student's training as pure functions: a state and an action go in, the next state comes out.

    state₀ = init(episode)     state_{t+1}, outcome = step(state_t, episode, action)     J = objective(state, episode)

The state holds all that a step changes; the episode holds all that a step draws on: which samples are train and dev, in
which order they come, and the seed of augmentation and dropout. Nothing is hidden in between, so a step can be replayed
bitwise, batched over students, snapshotted, and differentiated.

`Dynamics` is itself a frozen value: many students instead of one are `replace(dynamics, mapping=Vmap())`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from teachenv.control import Control
from teachenv.losses.base import LossFamily
from teachenv.losses.sample_weights import SampleWeights
from teachenv.mapping import Mapping
from teachenv.minibatches import minibatches
from teachenv.model import Model
from teachenv.optimizers import Optimizer
from teachenv.randomness import SEED_BOUND, Purpose, generator
from teachenv.schedules import make_schedule
from teachenv.state import Episode, Outcome, StudentState
from teachenv.student_update import Move, StudentUpdate


@dataclass(frozen=True, eq=False, kw_only=True)
class Dynamics(Model):
    """The training of a student, or of many.

    Attributes:
        optimizer: the student's optimiser.
        moves: what a student's step consists of, in order. Of an ordinary student there is one; of a pair the
            teacher's comes first. The last one's loss and outcome are the student's.
        warm_start: steps of cross-entropy that an untrained student takes before the first action.
        known_pure: whether network, loss, measure, decisions, optimiser, augmentation and trim are all this package's
            own.
    """

    optimizer: Optimizer
    moves: tuple[Move, ...]
    warm_start: int = 0
    known_pure: bool = False

    @property
    def loss(self) -> LossFamily:
        """The student's loss family."""
        return self.moves[-1].loss

    @property
    def control(self) -> Control:
        """What an action sets: of the student's loss, and beside it."""
        return self.moves[-1].control

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """What an action, (n,), makes of the loss, as a matrix to look at; see `LossFamily.coefficients`."""
        return self.loss.coefficients(self.control.of_loss(action))

    def numbers(self, action: torch.Tensor) -> torch.Tensor:
        """All numbers that an action, (n,), sets, in one row: of the loss, and those of `Control.numbers`."""
        of_loss = self.loss.numbers(self.control.of_loss(action)).flatten().double()
        if not self.control.others:
            return of_loss
        factors = self.control.numbers(action, getattr(self.optimizer, "momentum", 0.0)).to(of_loss.device)
        return torch.cat([of_loss, factors]) if self.control.loss else factors

    def mapped(self, mapping: Mapping) -> Dynamics:
        """The training of one student, or of many, as the mapping says."""
        return replace(self, mapping=mapping)

    def updates(self, episode: Episode) -> list[StudentUpdate]:
        """A student's step in the episode as updates, in order."""
        last = len(self.moves) - 1
        return [
            StudentUpdate(
                model=self,
                optimizer=self.optimizer,
                episode=episode,
                move=move,
                ends_step=i == last,
            )
            for i, move in enumerate(self.moves)
        ]

    def step(self, state: StudentState, episode: Episode, action: torch.Tensor) -> tuple[StudentState, Outcome]:
        """One student step under the loss that the action stands for; leaves the arguments as they are."""
        for update in self.updates(episode):
            state, outcome = update.step(state, action)
        return state, outcome

    def rate(self, step: int | np.ndarray) -> float | np.ndarray:
        """The student's learning rate at a step, or at an array of them."""
        return self.moves[-1].rate(step)

    def untrained(self, episode: Episode) -> StudentState:
        """The student before any training."""
        parameters, buffers, step = self.mapping.drawn(self.student, episode.seeds)
        return StudentState(parameters, self.optimizer.init(parameters), buffers, step)

    def init(self, episode: Episode) -> StudentState:
        """The student at the episode's begin: untrained, or after its warm start.

        A warm start is cross-entropy at the base learning rate, on its own minibatches; the slots are fresh after it.
        """
        state = self.untrained(episode)
        if not self.warm_start:
            return state
        plain = replace(
            self,
            moves=(
                Move(
                    SampleWeights(),
                    self.moves[-1].learning_rate,
                    make_schedule("constant", self.warm_start),
                    Control(episode.batches.shape[-1]),
                ),
            ),
        )
        warm = self._warm_episode(episode)
        neutral = torch.zeros_like(warm.batches[..., 0, :], dtype=self.student.dtype)
        begin = state.step
        for _ in range(self.warm_start):
            state, _ = plain.step(state, warm, neutral)
        return StudentState(state.parameters, self.optimizer.init(state.parameters), state.buffers, begin)

    def _warm_episode(self, episode: Episode) -> Episode:
        """What the warm start draws on: the episode with minibatches and seeds of its own."""
        randoms = [generator(seed, Purpose.WARM_START) for seed in episode.seeds]
        size, trains = episode.batches.shape[-1], episode.train.cpu().numpy().reshape(len(randoms), -1)
        drawn = [
            minibatches(rng, train, size, self.warm_start, self.task.lengths)
            for rng, train in zip(randoms, trains, strict=True)
        ]
        batches = torch.from_numpy(np.stack(drawn)).view(*episode.batches.shape[:-2], self.warm_start, size)
        seeds = tuple(int(rng.integers(SEED_BOUND)) for rng in randoms)
        return replace(episode, seeds=seeds, batches=batches.to(episode.batches.device))
