"""Stable-Baselines3's off-policy algorithms as teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import RolloutReturn, Schedule
from torch import nn

from agents.base import RLTeacher, trains_students
from teachenv import checkpoints, checks
from teachenv.trees import ARRAYS, at, mapped

_BUFFER = "a replay buffer"


class ReplayTeacher(RLTeacher, OffPolicyAlgorithm):
    """An off-policy algorithm as a teacher: `RLTeacher`, and what a replay buffer asks for.

    * The first `learning_starts` actions are the actor's own with its exploration, where SB3 takes uniformly random
      ones, which in a box of loss coefficients wreck the student.
    * A checkpoint holds the replay buffer, too.

    Args:
        policy: `"AttentionPolicy"` (L2T-DLF's actor), `"MlpPolicy"`, or a policy class; SB3's other names, too.
        env: the environment to learn in; `RLTeacher` says which ones.
        learning_rate: the step size of Adam on actor and critic; None: 1e-3.
        uniform_start: True: the first `learning_starts` actions are uniformly random, as SB3's are. None: only where
            the environment trains no students.
        **kwargs: further options of `RLTeacher` and of SB3's algorithm; where it is not given, and students are
            trained, `buffer_size` is 200,000.
    """

    moved = (*RLTeacher.moved, "replay_buffer.pos", "replay_buffer.full")
    saved_transitions: dict[str, Any] | None = None
    """The replay buffer's content, from `load` until `learn` puts it back."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule | None = None,
        *,
        uniform_start: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds actor, critic and replay buffer."""
        uniform_start = None if uniform_start is None else checks.flag("uniform_start", uniform_start)
        super().__init__(policy, env, learning_rate, **kwargs)
        self.uniform_start = not trains_students(self.env) if uniform_start is None else uniform_start

    def _teaching_defaults(self, env: Any, given: dict[str, Any]) -> dict[str, Any]:
        return super()._teaching_defaults(env, given) | {"buffer_size": 200_000}

    @property
    def actor_network(self) -> nn.Module:
        """The network of the deterministic action; SAC's ends before its tanh."""
        network = self.actor.mu
        assert isinstance(network, nn.Module)
        return network

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Marks the model, and runs SB3's `collect_rollouts`: whatever a callback saves meanwhile is of the mark."""
        self.set_mark()
        self.saved_transitions = None
        return super().collect_rollouts(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        return super()._sample_action(learning_starts if self.uniform_start else 0, action_noise, n_envs)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        normalizer = self._vec_normalize_env
        if normalizer is None:
            super()._store_transition(
                replay_buffer, buffer_action, new_obs, self.shaped(reward, buffer_action), dones, infos
            )
            return
        # SB3 keeps the rewards that it finds here, and normalises them whenever it learns from them.
        true = normalizer.old_reward
        normalizer.old_reward = self.shaped(true, buffer_action)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        normalizer.old_reward = true

    def _to_save(self, exclude: Any, include: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Returns what `Resumable` saves, and the transitions that the replay buffer had at the last mark."""
        attributes, parameters, variables = super()._to_save(exclude, include)
        buffer, mark = self.replay_buffer, self.mark
        if mark is not None and buffer is not None and self.saved_transitions is None:
            # One more than are stored: a buffer that saves memory has an observation there.
            position = mark.attributes["replay_buffer.pos"] + 1
            rows = buffer.buffer_size if mark.attributes["replay_buffer.full"] else position
            attributes["saved_transitions"] = at(_columns(buffer), slice(rows))
        return attributes, parameters, variables

    def save_replay_buffer(self, path: Any) -> None:
        """Writes the buffer's transitions by themselves; `save` has them, too."""
        buffer = self.replay_buffer
        assert buffer is not None
        rows = buffer.buffer_size if buffer.full else buffer.pos + 1
        columns = at(_columns(buffer), slice(rows))
        about = {"size": buffer.buffer_size, "environments": buffer.n_envs, "pos": buffer.pos, "full": buffer.full}
        checkpoints.save(path, {"about": about, "columns": columns}, _BUFFER)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Reads what `save_replay_buffer` wrote; it runs nothing of the file's.

        Raises:
            ValueError: the file is damaged, or of a buffer of another size or of other spaces.
        """
        del truncate_last_traj  # of SB3's hindsight buffer
        buffer = self.replay_buffer
        assert buffer is not None
        saved = checkpoints.load(path, _BUFFER)
        about, columns = saved["about"], _columns(buffer)
        saved_shape = [about["size"], about["environments"], _shapes(saved["columns"])]
        if saved_shape != [buffer.buffer_size, buffer.n_envs, _shapes(columns)]:
            raise ValueError(
                f"{path} holds a replay buffer of {about['size']} steps of {about['environments']} environments or of "
                f"other spaces, found one of {buffer.buffer_size} steps of {buffer.n_envs}; make the teacher as it was"
            )
        mapped(_write, saved["columns"], columns, of=ARRAYS)
        buffer.pos, buffer.full = about["pos"], about["full"]

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.saved_transitions = None
        noise, env = self.action_noise, self.env
        if isinstance(noise, VectorizedActionNoise) and env is not None and noise.n_envs != env.num_envs:
            self.action_noise = noise.base_noise  # SB3 copies it for each environment

    def _check_mark(self) -> None:
        """Refuses to go on from a mark that does not fit the model's environment or replay buffer.

        Raises:
            ValueError: the mark belongs to another number of parallel environments, or its transitions to a replay
                buffer of another size.
        """
        super()._check_mark()
        if self.saved_transitions is None:
            return
        assert self.mark is not None
        assert self.replay_buffer is not None
        rows, size = len(self.saved_transitions["actions"]), self.replay_buffer.buffer_size
        if rows > size or (self.mark.attributes["replay_buffer.full"] and rows != size):
            raise ValueError(
                f"this checkpoint holds {rows} steps of a replay buffer, found a buffer of {size} steps; load it "
                "without buffer_size, or start anew with reset_num_timesteps=True"
            )

    def _return_to_mark(self) -> None:
        assert self.replay_buffer is not None
        if self.saved_transitions is not None:
            mapped(_write, self.saved_transitions, _columns(self.replay_buffer), of=ARRAYS)
        super()._return_to_mark()
        self.saved_transitions = None


def _columns(buffer: ReplayBuffer) -> dict[str, Any]:
    """Returns what a buffer has for each transition, by name: arrays, or dictionaries of arrays."""
    return {
        name: column
        for name, column in vars(buffer).items()
        for part in [next(iter(column.values()), None) if isinstance(column, dict) else column]
        if isinstance(part, np.ndarray) and part.ndim and len(part) == buffer.buffer_size
    }


def _shapes(columns: Any) -> Any:
    """Returns dtype and shape of one transition, for each column."""
    return mapped(lambda column: (str(column.dtype), column.shape[1:]), columns, of=ARRAYS)


def _write(values: Any, column: Any) -> None:
    column[: len(values)] = values


class NoisyTeacher(ReplayTeacher):
    """A deterministic actor: it explores by Gaussian action noise, where SB3's default is none.

    Args:
        policy: `"AttentionPolicy"`, `"MlpPolicy"`, `"SamplePolicy"`, another name of SB3's, or a policy class.
        env: the environment to learn in; `ReplayTeacher` says which ones.
        learning_rate: the step size of Adam on actor and critic; None: 1e-3.
        noise: standard deviation of the Gaussian noise in each coordinate; ignored if `action_noise` is given. None:
            0.1; in an environment that does not train students SB3's default, no noise.
        action_noise: SB3's noise, in place of the Gaussian.
        **kwargs: further options of `ReplayTeacher`.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule | None = None,
        *,
        noise: float | None = None,
        action_noise: ActionNoise | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        """Builds the algorithm with the Gaussian noise, unless another one is given."""
        if _init_setup_model:
            self._check_env(env)
        super().__init__(
            policy, env, learning_rate, noise=noise, action_noise=action_noise, _init_setup_model=False, **kwargs
        )
        if self.action_noise is None and self.env is not None and self.noise is not None:
            size = self.action_space.shape
            assert size is not None
            self.action_noise = NormalActionNoise(np.zeros(size), np.full(size, self.noise))
        if _init_setup_model:
            self._setup_model()
