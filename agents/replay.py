"""What Stable-Baselines3's off-policy algorithms need to be teachers."""

from __future__ import annotations

from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, Schedule
from stable_baselines3.common.vec_env import VecEnv

from agents.policies import GaussianMlpPolicy, MlpPolicy
from meta.saving.resume import Resumable
from teachenv import TeachEnv, TeachVectorEnv, checkpoints, checks
from teachenv.trees import ARRAYS, at, mapped

Self = TypeVar("Self", bound="ReplayTeacher")

SB3S_NETWORK = (MlpPolicy, GaussianMlpPolicy)
"""Policies that may have SB3's network as SB3 draws it."""

_BUFFER = "a replay buffer"


def trains_students(env: Any) -> bool:
    """Whether an environment is a teaching one, or a batch of them; SB3's are asked through all their wrappers."""
    if isinstance(env, gym.Env | gym.vector.VectorEnv):
        return isinstance(env.unwrapped, TeachEnv | TeachVectorEnv)
    return isinstance(env, VecEnv) and env.has_attr("problem")


def _check_actions(env: Any) -> None:
    space = env.single_action_space if isinstance(env, gym.vector.VectorEnv) else env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"expected actions in a Box, found {space}; SB3's PPO and A2C take such actions")
    if not space.is_bounded():
        raise ValueError(
            f"expected actions between finite bounds, found {space}; give its action space bounds, for "
            "example by gymnasium.wrappers.TransformAction"
        )


class ReplayTeacher(Resumable, OffPolicyAlgorithm):
    """An off-policy algorithm as a teacher; everything that is not named here, and every other argument, is SB3's.

    These defaults hold where an environment trains students (`TeachEnv`, `TeachVectorEnv`). In every other environment
    all defaults are SB3's: `"MlpPolicy"` is then SB3's algorithm to the last bit. What is given holds everywhere.

    * The first `learning_starts` actions are the actor's own with its exploration, where SB3 takes uniformly random
      ones, which in a box of loss coefficients wreck the student.
    * Rewards are increases of accuracy, 0.01 or so a step: `reward_scale` brings them to the size that the critic is
      made for.
    * `action_penalty` keeps the actor from saturating at the edge of the box before the critic knows better.
    * The discount is 1, since the episode's return is the objective, and progress is observed.
    * A checkpoint holds the replay buffer and the environment's state, so that training goes on exactly.

    Args:
        policy: `"AttentionPolicy"` (L2T-DLF's actor), `"MlpPolicy"`, or a policy class; SB3's other names, too.
        env: A `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them; or any other with Box actions.
        learning_rate: The step size of Adam on actor and critic; None: 1e-3.
        noise: The standard deviation of the exploration at the start; None: 0.1.
        reward_scale: The factor on the rewards that the critic learns from; None: 100, or 1 where SB3's `VecNormalize`
            brings them to size.
        action_penalty: The factor c ≥ 0: c · mean(a²) is subtracted from each scaled reward that the critic learns
            from.
        uniform_start: True: the first `learning_starts` actions are uniformly random, as SB3's are. None: only where
            the environment trains no students.
        **kwargs: Further options of SB3's algorithm; where they are not given, and students are trained, `gamma` is 1,
            `buffer_size` 200,000 and `device` "cpu".

    Raises:
        ValueError: a negative penalty or noise, or actions that are not a Box with finite bounds.
    """

    moved = (*Resumable.moved, "replay_buffer.pos", "replay_buffer.full")
    saved_transitions: dict[str, Any] | None = None
    """The replay buffer's content, from `load` until `learn` puts it back."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule | None = None,
        *,
        noise: float | None = None,
        reward_scale: float | None = None,
        action_penalty: float = 0.0,
        uniform_start: bool | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds actor, critic and replay buffer."""
        action_penalty = checks.number("action_penalty", action_penalty, least=0)
        noise = None if noise is None else checks.number("noise", noise, least=0)
        reward_scale = None if reward_scale is None else checks.number("reward_scale", reward_scale)
        uniform_start = None if uniform_start is None else checks.flag("uniform_start", uniform_start)
        env = maybe_make_env(env, kwargs.get("verbose", 0))
        if env is not None:
            _check_actions(env)
        teaching = trains_students(env)
        if teaching:
            kwargs = {"learning_rate": 1e-3, "gamma": 1.0, "buffer_size": 200_000, "device": "cpu", **kwargs}
        if learning_rate is not None:
            kwargs["learning_rate"] = learning_rate
        self.noise = 0.1 if noise is None and teaching else noise
        self.action_penalty = action_penalty
        self.uniform_start = not teaching if uniform_start is None else uniform_start
        if isinstance(policy, str):
            policy = self._get_policy_from_name(policy)
        options = self._policy_defaults(policy, teaching, noise) | (policy_kwargs or {})
        super().__init__(policy, env, policy_kwargs=options, **kwargs)
        normalized = self._vec_normalize_env is not None and self._vec_normalize_env.norm_reward
        self.reward_scale = (100.0 if teaching and not normalized else 1.0) if reward_scale is None else reward_scale

    def _policy_defaults(self, policy: type[BasePolicy], teaching: bool, noise: float | None) -> dict[str, Any]:
        """Returns the policy's default options; `noise` is the caller's, None if none was given."""
        return {} if teaching or not issubclass(policy, SB3S_NETWORK) else {"initial_scale": None}

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Runs SB3's `learn`; if it ends before its time, the model goes back to its last mark."""
        name = tb_log_name or type(self).__name__
        with self._learning():
            super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
            if self.num_timesteps >= self._total_timesteps:  # else a callback stopped it
                self.set_mark(last=True)
        return self

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
        def shaped(rewards: np.ndarray) -> np.ndarray:
            squares = np.square(buffer_action).reshape(len(rewards), -1)
            shaped_rewards: np.ndarray = self.reward_scale * rewards - self.action_penalty * squares.mean(axis=1)
            return shaped_rewards

        normalizer = self._vec_normalize_env
        if normalizer is None:
            super()._store_transition(replay_buffer, buffer_action, new_obs, shaped(reward), dones, infos)
            return
        # SB3 keeps the rewards that it finds here, and normalises them whenever it learns from them.
        true = normalizer.old_reward
        normalizer.old_reward = shaped(true)
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
        env: The environment to learn in; `ReplayTeacher` says which ones.
        learning_rate: The step size of Adam on actor and critic; None: 1e-3.
        noise: Standard deviation of the Gaussian noise in each coordinate; ignored if `action_noise` is given. None:
            0.1; in an environment that does not train students SB3's default, no noise.
        action_noise: SB3's noise, in place of the Gaussian.
        **kwargs: Further options of `ReplayTeacher`.
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
        super().__init__(
            policy, env, learning_rate, noise=noise, action_noise=action_noise, _init_setup_model=False, **kwargs
        )
        if self.action_noise is None and self.env is not None and self.noise is not None:
            size = self.action_space.shape
            assert size is not None
            self.action_noise = NormalActionNoise(np.zeros(size), np.full(size, self.noise))
        if _init_setup_model:
            self._setup_model()
