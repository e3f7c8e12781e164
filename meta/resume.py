"""Checkpoints from which a teacher's training goes on as if it had not stopped.

SB3 saves networks and optimisers, but neither the environment nor the generators, and a callback can save in the middle
of a rollout. Here a model marks, at the start of each rollout, what surrounds it: the environment (a snapshot costs
nothing, since the students are values), the last observation, the counts and the global generators. `save` keeps the
last mark, `load` with an environment goes back to it, and the part of a rollout after it is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from meta.generators import Generators, generators, set_generators
from meta.vec_env import as_vec_env
from teachenv.errors import unknown_name
from teachenv.files import whole_file


@dataclass(frozen=True)
class Mark:
    """What surrounds a model at a moment when its own state is consistent.

    Attributes:
        environments: snapshots, one for each that `VecEnv.env_method` reaches.
        last_obs: the observation to act on next.
        num_timesteps: environment steps so far.
        episode_num: episodes so far.
        episode_infos: the latest episodes' returns and lengths, for the log.
        generators: the global ones.
        own: what the algorithm adds.
    """

    environments: list[Any]
    last_obs: np.ndarray
    num_timesteps: int
    episode_num: int
    episode_infos: list[dict[str, Any]]
    generators: Generators
    own: dict[str, Any]


class Resumable(BaseAlgorithm):
    """Adds marks to an SB3 algorithm; also takes Gymnasium's vector environments."""

    mark: Mark | None = None
    classes: str | None = None
    """What the classes of the students trained on are; see `teachenv.tasks.decisions.Decisions`."""
    _resuming = False

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise unknown_name("policy", policy_name, self.policy_aliases)
        return self.policy_aliases[policy_name]

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return BaseAlgorithm._wrap_env(as_vec_env(env), verbose, monitor_wrapper)

    @classmethod
    def load(cls, path: Any, env: Any = None, *args: Any, **kwargs: Any) -> Any:
        """SB3's `load`; with an environment, the next `learn(..., reset_num_timesteps=False)` goes on from the mark.

        `num_timesteps` is the mark's then: `learn(total - model.num_timesteps, reset_num_timesteps=False)` ends as the
        uninterrupted `learn(total)` does.

        Raises:
            ValueError: the environment has other spaces or another vocabulary than the one trained on, or (from
                `learn`) other settings.
        """
        model = super().load(path, env, *args, **kwargs)
        model._check_classes()
        if model.mark is not None:
            model.num_timesteps, model._episode_num = model.mark.num_timesteps, model.mark.episode_num
            model._resuming = env is not None
        return model

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """SB3's `save`; an interrupted one leaves no half-written file, and an older file of that name as it was."""
        if not isinstance(path, str | Path):
            super().save(path, exclude, include)
            return
        path = Path(path)
        # SB3 would leave a file that it opens itself open after an error.
        with whole_file(path if path.suffix else path.with_suffix(".zip")) as partial, open(partial, "wb") as file:
            super().save(file, exclude, include)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        resuming, self._resuming = self._resuming and not reset_num_timesteps, False
        if resuming:
            self._last_obs = None  # resets the environment, monitors included, before its state is put back
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._check_classes()
        if resuming:
            self._return_to_mark()
        return result

    def _check_classes(self) -> None:
        if self.env is None or not self.env.has_attr("teaching"):
            return
        found = self.env.get_attr("teaching")[0].decisions.classes
        if self.mark is not None and found != self.classes:
            raise ValueError(
                f"this teacher was trained on {self.classes or 'classes'}, found an environment of "
                f"{found or 'classes'}: coordinates of its actions would mean something else; make the environment "
                "with the data and the vocabulary_size that it was trained with"
            )
        self.classes = found

    def set_mark(self) -> None:
        """Marks the present."""
        assert self.env is not None
        if not self.env.has_attr("get_state"):
            return
        assert isinstance(self._last_obs, np.ndarray)
        self.mark = Mark(
            self.env.env_method("get_state"),
            self._last_obs.copy(),
            self.num_timesteps,
            self._episode_num,
            list(self.ep_info_buffer or []),
            # SB3's replay buffers and action noise draw from NumPy's global generator.
            generators(),
            self._own_mark(),
        )

    def _return_to_mark(self) -> None:
        assert self.env is not None
        assert self.mark is not None
        assert self.ep_info_buffer is not None
        if len(self.mark.last_obs) != self.env.num_envs:
            raise ValueError(
                f"this checkpoint is of a training with {len(self.mark.last_obs)} parallel environments, found "
                f"{self.env.num_envs}; load it with as many, or start anew with reset_num_timesteps=True"
            )
        for i, state in enumerate(self.mark.environments):
            self.env.env_method("set_state", state, indices=i)
        self._last_obs = self.mark.last_obs.copy()
        self.ep_info_buffer.clear()
        self.ep_info_buffer.extend(self.mark.episode_infos)
        set_generators(self.mark.generators)

    def _own_mark(self) -> dict[str, Any]:
        return {}
