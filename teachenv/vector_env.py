"""Many students' training runs as one batched Gymnasium vector environment."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from teachenv import checks
from teachenv.batching import Batching, batched
from teachenv.dynamics import Dynamics
from teachenv.env import TeachEnv
from teachenv.errors import UnknownOption
from teachenv.interface import Interface
from teachenv.parts import spelled_out
from teachenv.problem import Problem
from teachenv.problem_checks import check_snapshot, reset_options
from teachenv.randomness import SEED_BOUND
from teachenv.settings import Settings
from teachenv.standing import Standing
from teachenv.state import Episode, StudentState, stack_episodes
from teachenv.tasks.base import Task


def _mode(autoreset_mode: object) -> AutoresetMode:
    """The mode, or that of a value, as Gymnasium's vector environments take both."""
    if isinstance(autoreset_mode, AutoresetMode):
        return autoreset_mode
    return AutoresetMode(checks.choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode]))


class _Shown(ABCMeta):
    """Classes of which errors say what to do: Stable-Baselines3 refuses vector environments by showing their class."""

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__qualname__}', which Stable-Baselines3 takes as meta.GymVecEnv(envs)>"


class TeachVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray], metaclass=_Shown):
    """B students trained in one computation; the same as B single environments, to float tolerance.

    `gym.make_vec("TeachDigits-v0", num_envs=64)` makes one. Spaces, reward, end and info are those of `TeachEnv`; info
    arrays have a leading dimension B and carry Gymnasium's `_key` masks.

    `autoreset_mode` says when a student whose episode has ended is replaced by a new one. Gradient teachers and
    `meta.GymVecEnv` need the default; `NormalizeObservation` of Gymnasium needs `"NextStep"`.

    * `"SameStep"`: in the step that ends the episode. The step returns the next episode's first observation, with the
      ended one's last observation in `info["final_obs"]` and its info in `info["final_info"]`.
    * `"NextStep"`: in the step after it, which ignores that student's action and returns the first observation of the
      next episode, reward 0, and the info of a reset.
    * `"Disabled"`: when `reset` is called, for which `options={"reset_mask": terminated}` names the students.

    Stable-Baselines3 has a kind of vector environment of its own: `meta.GymVecEnv(envs)` is this one as such.

    Seeding: `reset(seed=s)` seeds student i with s + i, `reset(seed=[...])` each with its own.

    Args:
        num_envs: number B of students.
        path: how students are batched. `"vmap"`: in one call, which pays where a step is dominated by call overhead;
            `"loop"`: one after the other. `"auto"`: vmap, except for what is slower so or impossible: a single student,
            networks with convolutions on a CPU (LeNet students run at 0.4-0.75 times the loop's speed under vmap there)
            and networks whose forward pass draws random numbers (dropout) or does not run under vmap.
            `python -m benchmarks throughput` measures both.
        autoreset_mode: a `gymnasium.vector.AutoresetMode` or its value: `"SameStep"`, `"NextStep"` or `"Disabled"`.
        defaults: settings where none are given, as in `TeachEnv`.
        **settings: options of the environment; `teachenv.Settings` lists them.

    Raises:
        ValueError: a setting out of its range or without effect, or `path="vmap"` for a network that does not allow it.
        TypeError: an unknown setting.
        DatasetUnavailable: the data cannot be had.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        path: Batching = "auto",
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: None = None,
        defaults: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Loads the data and builds the students' dynamics."""
        num_envs = checks.integer("num_envs", num_envs, least=1)
        if render_mode is not None:
            raise ValueError(
                f"the vector environment does not render, found render_mode={render_mode!r}; render a single one"
            )
        # The attribute is what torchrl reads, as Gymnasium's own vector environments have it.
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.render_mode = None
        self.num_envs = num_envs
        if "max_episode_steps" in settings:  # which gym.make_vec hands on; gym.make has a wrapper for it
            raise UnknownOption(
                "the vector environment got an unexpected keyword argument 'max_episode_steps'; an episode's length in "
                "student steps is horizon=...: leave max_episode_steps out, of a registration as well"
            )
        settings = spelled_out(settings)
        self.problem = Problem(Settings.from_kwargs(settings, defaults), given=settings)
        mapping = batched(self.problem, path, num_envs)
        self.path = "loop" if mapping.one_by_one else "vmap"
        self.interface = Interface(self.problem, self.problem.dynamics.mapped(mapping))
        self.OBSERVATION_FIELDS = self.interface.observation_fields
        self.single_observation_space = self.interface.observation_space
        self.single_action_space = self.interface.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.actions = self.problem.neutral_action.expand(num_envs, -1)
        self._randoms = [seeding.np_random()[0] for _ in range(num_envs)]
        self._standing: Standing | None = None
        self._stepped: Standing | None = None

    @property
    def task(self) -> Task:
        """The data, label noise in place."""
        return self.problem.task

    @classmethod
    def like(cls, env: TeachEnv, num_envs: int) -> TeachVectorEnv:
        """The vector environment with the options that a single one was made with."""
        return cls(num_envs, defaults=env.defaults, **env.given)

    @property
    def dynamics(self) -> Dynamics:
        """The training of the students as pure functions."""
        return self.interface.dynamics

    @property
    def students(self) -> StudentState:
        """The students in training, a value that later steps leave as it is."""
        return self._now.students

    @property
    def episodes(self) -> Episode:
        """What the current training runs draw on, a value."""
        return self._now.episodes

    @property
    def final_students(self) -> StudentState | None:
        """The students as they stood after the last step, before any of them started anew; None: no step was taken.

        A snapshot has them, too.
        """
        return None if self._stepped is None else self._stepped.students

    @property
    def _now(self) -> Standing:
        if self._standing is None:
            raise gym.error.ResetNeeded("there are no students yet: call reset() first")
        return self._standing

    def predict(self, inputs: Any) -> torch.Tensor:
        """Outputs of the current students in evaluation mode, (B, n, outputs, ...), without gradients.

        With teacher networks they are the students' alone, (B, n, classes).

        Args:
            inputs: samples in the task's form, (n, ...): an array, a data frame, or a dictionary of such; the same for
                all students.

        Raises:
            ValueError: they are no such samples, are not finite, or have other columns than the pool's.
            TypeError: they are no numbers.
            ResetNeeded: before `reset`.
        """
        return self.interface.predict(self.students, inputs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws a split and a student for each: an untrained one, or with `warm_start` after so many steps.

        Args:
            seed: seed of the episodes, as the class says.
            options: `{"reset_mask": mask}`, a boolean array (B,) as Gymnasium's vector environments take it, resets
                those students only; the others go on, and `_key` masks of the infos leave them out.

        Raises:
            ValueError: another option, a mask of another kind or without a student, or a wrong number of seeds.
            ResetNeeded: a mask that leaves out students who have not begun yet.
        """
        mask = self._mask(reset_options(options, ("reset_mask",)))
        seeds = self._seeds(seed)
        if self._standing is None and not mask.all():
            raise gym.error.ResetNeeded("there are no students yet: reset all of them before some of them")
        chosen = np.flatnonzero(mask)
        fresh = {i: seeding.np_random(seeds[i])[0] for i in chosen.tolist() if seeds[i] is not None}
        self._randoms = [fresh.get(i, random) for i, random in enumerate(self._randoms)]
        self._restart(chosen)
        if mask.all():
            self._stepped = None
        return self._now.observation.copy(), self._infos(mask)

    def _mask(self, options: dict[str, Any]) -> np.ndarray:
        mask = options.get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,) and mask.any():
            return mask.copy()
        description = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else checks.shown(mask)
        raise ValueError(
            f"reset_mask must be an array of bool, of shape ({self.num_envs},), with True for the students to reset, "
            f"found {description}{' without any True' if isinstance(mask, np.ndarray) and not mask.any() else ''}"
        )

    def _seeds(self, seed: object) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str) and np.ndim(seed) == 1:
            if len(seed) != self.num_envs:
                raise ValueError(f"reset: expected one seed for each of {self.num_envs} students, found {len(seed)}")
            return [None if s is None else checks.integer("seed", s, least=0) for s in seed]
        first = checks.integer("seed", seed, least=0)
        return [first + i for i in range(self.num_envs)]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Trains each student for `steps_per_action` steps; `autoreset_mode` says when ended episodes start anew.

        Raises:
            ResetNeeded: before `reset`, or with `autoreset_mode="Disabled"` for students whose episodes have ended.
            ValueError: actions of wrong shape, with NaN, or outside the box.
            TypeError: actions of other than floating-point numbers.
        """
        over = self.ended
        if over.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"the episodes of students {np.flatnonzero(over).tolist()} have ended: call "
                'reset(options={"reset_mask": terminated}) before the next step'
            )
        self.actions = self.interface.parse_action(actions, self.action_space.shape or ())
        if over.any():
            rewards = self._step_others(over)
        else:
            self._standing, rewards = self.interface.step(self._now, self.actions)
        self._stepped = self._standing
        terminated, infos = self.ended, self._infos()
        if terminated.any() and self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._last_words(terminated, infos)
            self._restart(np.flatnonzero(terminated))
            infos = self._infos() | infos
        return self._now.observation.copy(), rewards, terminated, np.zeros(self.num_envs, dtype=bool), infos

    @property
    def ended(self) -> np.ndarray:
        """The students whose episodes have ended and who wait for the next one, bool (B,).

        With `autoreset_mode="SameStep"` nobody waits.
        """
        return self.interface.ended(self._now)

    def _step_others(self, over: np.ndarray) -> np.ndarray:
        """Puts new students in the places of those whose episodes are over, and trains the others; rewards (B,)."""
        rows = np.flatnonzero(over)
        self._restart(rows)
        if over.all():
            return np.zeros(self.num_envs)
        begun = self._now
        # All are trained, since they are one computation; those that have just begun are put back.
        trained, rewards = self.interface.step(begun, self.actions)
        self._standing = trained.with_rows(rows, begun.of_rows(rows))
        return np.where(over, 0.0, rewards)

    def evaluate(self, split: str = "test") -> dict[str, np.ndarray]:
        """Measures the current students; as `TeachEnv.evaluate`, each value of shape (B,).

        Right after a step that ended an episode the students are new ones; stop one step earlier, or see
        `evaluate_final`.
        """
        return self._evaluate(self._now, split)

    def evaluate_final(self, split: str = "test") -> dict[str, np.ndarray]:
        """Measures the students as they stood after the last step, before any of them started anew."""
        if self._stepped is None:
            raise gym.error.ResetNeeded("no step has been taken since reset()")
        return self._evaluate(self._stepped, split)

    def _evaluate(self, standing: Standing, split: str) -> dict[str, np.ndarray]:
        return self.interface.evaluate(standing.students, standing.episodes, split, standing.diverged)

    def get_state(self) -> dict[str, Any]:
        """A snapshot that `set_state` continues from bitwise, here or (pickled) in another process."""
        standing = None if self._standing is None else self._standing.saved()
        stepped = None if self._stepped is None else self._stepped.saved()
        return {
            "kind": "TeachVectorEnv",
            "settings": self.problem.fingerprint,
            "num_envs": self.num_envs,
            "random": [random.bit_generator.state for random in self._randoms],
            "standing": standing,
            # Where no episode has ended in the last step they are the same, and a file holds them once.
            "stepped": standing if self._stepped is self._standing else stepped,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot.

        Raises:
            ValueError: the snapshot is of another kind of environment, of one with other settings or another number of
                students, or damaged; nothing is changed then.
        """
        here = self.get_state()
        # Snapshots of earlier versions do not tell what stood before episodes ended.
        needed = {name: value for name, value in here.items() if name != "stepped"}
        check_snapshot(state, needed, Settings().fingerprint(), self._randoms)
        standing = stepped = self.interface.loaded(state["standing"], self.num_envs)
        if standing and self.autoreset_mode is AutoresetMode.SAME_STEP and self.interface.ended(standing).any():
            raise ValueError(
                "this state has students whose episodes have ended, expected none with autoreset_mode='SameStep': make "
                "the environment with the autoreset_mode of the one that it was taken from"
            )
        if (saved := state.get("stepped")) is not state["standing"]:
            stepped = self.interface.loaded(saved, self.num_envs)
        for random, generator_state in zip(self._randoms, state["random"], strict=True):
            random.bit_generator.state = generator_state
        self._standing, self._stepped = standing, stepped

    def _restart(self, rows: np.ndarray) -> None:
        """Puts new episodes in the places of others."""
        seeds = [int(self._randoms[i].integers(SEED_BOUND)) for i in rows.tolist()]
        fresh = self.interface.begin(stack_episodes([self.problem.episodes.of(seed) for seed in seeds]))
        self._standing = fresh if len(rows) == self.num_envs else self._now.with_rows(rows, fresh)

    def _last_words(self, ended: np.ndarray, infos: dict[str, Any]) -> dict[str, Any]:
        """What Gymnasium's vector environments report of episodes that end in a step and begin anew in it."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final_obs[i] = self._now.observation[i].copy()
        final_info = {key: ended.copy() if key.startswith("_") else value for key, value in infos.items()}
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}

    def _infos(self, mask: np.ndarray | None = None) -> dict[str, Any]:
        """The infos with Gymnasium's masks of the students that they are about; None: all."""
        infos: dict[str, Any] = {
            name: np.full(self.num_envs, value, dtype=object) if isinstance(value, str) else value.copy()
            for name, value in self.interface.info(self._now).items()
        }
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else mask
        return infos | {f"_{key}": mask.copy() for key in infos}
