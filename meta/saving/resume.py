"""Checkpoints from which a teacher's training goes on as if it had not stopped.

SB3 saves networks and optimisers, but neither the environment nor the generators, and a callback can save at any
moment: in the middle of a rollout, or after an update of which the counters do not know yet. Here a model marks, when
`learn` begins and at the start of each rollout, all that training moves: its networks and optimisers, its counters, the
environment (a snapshot costs nothing, since the students are values) with the wrappers around it, and the global
generators. A mark is a value, put in the place of the last one at once. While training is under way `save` writes the
last mark, whatever has moved since; `load` with an environment goes back to it, and the part of a rollout after it is
computed again.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from meta.saving.codecs import declare
from meta.saving.generators import Generators, generators, set_generators
from meta.saving.models import PlainModel, saved_attributes, variables_of, write_model
from meta.saving.modes import modes_kept
from meta.saving.wrapper_states import set_wrapper_states, wrapper_states
from meta.wrappers.vec_env import as_vec_env
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.samples import Visits
from teachenv.state import Episode, StudentState
from teachenv.trees import mapped, tensors_of

for _kind in (Generators, StudentState, Episode, Visits):
    declare(_kind)


@declare
@dataclass(frozen=True)
class Mark:
    """What training moves, at a moment when all of it agrees.

    Attributes:
        environments: snapshots of the environments, one for each that `VecEnv.env_method` reaches.
        wrappers: what SB3's and Gymnasium's wrappers around the environments remember, from `wrapper_states`.
        attributes: the model's attributes that are named in its `moved`.
        networks: state dictionaries by name, and single tensors; None when training is not under way: the model's are
            those of the mark.
        generators: the states of the global random generators, from which SB3's replay buffers and action noise draw.
    """

    environments: list[Any]
    wrappers: list[Any]
    attributes: dict[str, Any]
    networks: tuple[dict[str, Any], dict[str, Any]] | None
    generators: Generators


class Resumable(PlainModel):
    """Adds marks to an SB3 algorithm; also takes Gymnasium's vector environments.

    A `learn` that a callback stops, or an exception, leaves networks and optimisers as they were at the last mark; with
    `reset_num_timesteps=False` the next one goes on from there.
    """

    moved: ClassVar[tuple[str, ...]] = (
        *("num_timesteps", "_episode_num", "_n_updates", "_current_progress_remaining", "action_noise"),
        *("_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer", "ep_success_buffer"),
        *("action_space.np_random.bit_generator.state", "env.unwrapped._seeds"),
    )
    """Attributes that training moves, besides networks and optimisers; subclasses add theirs."""
    mark: Mark | None = None
    meaning: dict[str, str] | None = None
    """What actions mean in the environment trained on; see `teachenv.problem.Problem.meaning`."""
    _resuming = False
    _ahead = False
    """Whether training has moved the model since the mark."""

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
        uninterrupted `learn(total)` does; a negative difference changes nothing. Nothing of the file is run: what only
        a pickle can hold, such as a function for the learning rate, needs `trust=True`; see `meta.saving.models`.

        Raises:
            ValueError: the file is damaged, or of another class of model, or needs trust; or the environment has other
                spaces, another loss or another vocabulary than the one trained on, or (from `learn`) other settings.
        """
        model = super().load(path, env, *args, **kwargs)
        model._check_meaning()
        model._resuming = env is not None and model.mark is not None
        return model

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """SB3's `save`, of the state at the last mark; an interrupted one leaves an older file as it was."""
        write_model(self, path, *self._to_save(exclude, include))

    def _to_save(self, exclude: Any, include: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Returns attributes, state dictionaries and single tensors, each by name, as they were at the last mark."""
        attributes, networks = saved_attributes(self, exclude, include), None
        for name in ("_resuming", "_ahead"):
            attributes.pop(name, None)
        if self.mark is not None:
            if self._ahead:
                attributes |= {name: value for name, value in self.mark.attributes.items() if name in attributes}
                networks = self.mark.networks
            attributes["mark"] = replace(self.mark, networks=None)
        return attributes, *(networks or (self.get_parameters(), variables_of(self)))

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """SB3's `set_env`; drops the mark, which is of the environment before."""
        super().set_env(env, force_reset)
        self.mark, self._resuming, self._ahead = None, False, False

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Wraps the work of `learn`: if training ends before its time, the model goes back to the mark."""
        try:
            with modes_kept():
                yield
        except BaseException:
            if self._ahead:
                self._take_back()
                self._set_attributes()
                self._ahead = False
            raise
        if self._ahead:  # a callback stopped it; SB3's counters show how far it came
            self._take_back()

    def _take_back(self) -> None:
        """Puts networks and optimisers back to what they were at the mark."""
        assert self.mark is not None
        if self.mark.networks is not None:
            parameters, variables = self.mark.networks
            self.set_parameters(parameters, device=self.device)
            for name, value in variables.items():
                if value is not None:
                    recursive_getattr(self, name).data.copy_(value)
            self.mark = replace(self.mark, networks=None)
        self._resuming = True

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # What is left of a training that took whole rollouts beyond its total may be negative.
        total_timesteps = checks.integer(
            "total_timesteps", checks.whole(total_timesteps), 0 if reset_num_timesteps else None
        )
        if self.env is None:
            raise ValueError(
                f"this {type(self).__name__} has no environment to learn in: load it with env=..., or call set_env"
            )
        if self._ahead:  # the interruption was interrupted, too
            self._take_back()
        self._check_meaning()
        if reset_num_timesteps:
            self._begin_anew()
        elif self._resuming:
            self._check_mark()
        resuming = self._resuming
        begun = self.mark is not None and self.mark.attributes["_last_obs"] is not None
        if resuming and not begun:
            self._return_to_mark()
        elif resuming:
            self._last_obs = None  # resets the environment, monitors included, before its state is put back
        elif self.env.has_attr("problem"):  # others may have no state before their first episode
            self.set_mark()
        result: tuple[int, BaseCallback] = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if resuming and begun:
            self._return_to_mark()
        return result

    def _begin_anew(self) -> None:
        """Drops what belongs to the training so far."""
        self._ahead, self._resuming, self.mark = False, False, None
        # SB3 does the same later in `_setup_learn`, and an interruption can come in between.
        self.num_timesteps = self._episode_num = 0
        self.ep_info_buffer = self.ep_success_buffer = self._last_obs = None

    def _check_mark(self) -> None:
        """Refuses to go on from a mark that does not fit the model's environment.

        Raises:
            ValueError: the mark belongs to another number of parallel environments.
        """
        assert self.env is not None
        assert self.mark is not None
        count = len(self.mark.attributes["env.unwrapped._seeds"])
        if count != self.env.num_envs:
            raise ValueError(
                f"this checkpoint belongs to training with {count} parallel environments, found "
                f"{self.env.num_envs}; load it with as many, or start anew with reset_num_timesteps=True"
            )

    def _check_meaning(self) -> None:
        if self.env is None or not self.env.has_attr("problem"):
            return
        here = self.env.get_attr("problem")[0].meaning
        if self.num_timesteps and self.meaning is not None:
            # A loss is compared by its content, since defaults may be given or not, and shown in words.
            differing = [name for name in here if name != "loss" and here[name] != self.meaning.get(name)]
            shown = ["loss" if name == "content" else name for name in differing]
            if shown:
                trained, present = ("; ".join(each[name] for name in shown) for each in (self.meaning, here))
                raise ValueError(
                    f"this teacher was trained on {trained}, found an environment of {present}: the coordinates of its "
                    "actions would mean something else; make the environment with what the teacher was trained on"
                )
        self.meaning = here

    def set_mark(self, last: bool = False) -> None:
        """Marks the present; at the start of `learn` that may be before the environment's first episode.

        Args:
            last: True: training ends here, so that networks stay as they are, and no copies are made of them.
        """
        assert self.env is not None
        if not self.env.has_attr("get_state"):
            return
        self.mark = Mark(
            self.env.env_method("get_state"),
            wrapper_states(self.env),
            {name: _copied(recursive_getattr(self, name)) for name in self.moved},
            None if last else _copied((self.get_parameters(), variables_of(self))),
            generators(),
        )
        self._ahead = not last

    def _return_to_mark(self) -> None:
        assert self.env is not None
        assert self.mark is not None
        for i, state in enumerate(self.mark.environments):
            self.env.env_method("set_state", state, indices=i)
        set_wrapper_states(self.env, self.mark.wrappers)
        self._set_attributes()
        set_generators(self.mark.generators)
        self._ahead, self._resuming = True, False

    def _set_attributes(self) -> None:
        assert self.mark is not None
        for name, value in self.mark.attributes.items():
            recursive_setattr(self, name, _copied(value))


def _copied(value: Any) -> Any:
    """Returns a copy that shares nothing with what training goes on to move."""
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, deque):
        return value.copy()
    if isinstance(value, dict | tuple | torch.Tensor) and tensors_of(value):
        return mapped(lambda tensor: tensor.detach().clone(), value)
    return copy.deepcopy(value)
