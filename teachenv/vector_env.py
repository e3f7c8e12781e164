"""Many students' trainings as one batched Gymnasium vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from teachenv import checks
from teachenv.env import TeachEnv
from teachenv.errors import unknown_name
from teachenv.mapping import Loop, Vmap
from teachenv.randomness import SEED_BOUND
from teachenv.settings import Settings
from teachenv.state import Episode, StudentState, put, stack_episodes
from teachenv.teaching import Teaching
from teachenv.teaching_checks import check_snapshot, reset_options

Path = Literal["auto", "vmap", "loop"]


class TeachVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B students trained in one computation; the same as B single environments, to float tolerance.

    `gym.make_vec("TeachDigits-v0", num_envs=64)` makes one. Spaces, reward, end and info are those of `TeachEnv`; info
    arrays have a leading dimension B and carry Gymnasium's `_key` masks.

    Autoreset is `AutoresetMode.SAME_STEP`: the step that ends an episode returns the next episode's first observation,
    with the ended one's last observation in `info["final_obs"]` and its info in `info["final_info"]`.

    Stable-Baselines3 has a kind of vector environment of its own: `meta.GymVecEnv(envs)` is this one as such.

    Seeding: `reset(seed=s)` seeds student i with s + i, `reset(seed=[...])` each with its own.

    Args:
        num_envs: B.
        path: how students are batched. `"vmap"`: in one call, which pays where a step is dominated by call overhead;
            `"loop"`: one after the other. `"auto"`: vmap, except for what is slower so or impossible: networks with
            convolutions on a CPU (LeNet students run at 0.4-0.75 times the loop's speed under vmap there) and networks
            whose forward pass draws random numbers (dropout) or does not run under vmap. `python -m benchmarks
            throughput` measures both.
        defaults: see `TeachEnv`.
        **settings: see `teachenv.Settings`.

    Raises:
        ValueError: a setting out of its range or without effect, or `path="vmap"` for a network that does not allow it.
        TypeError: an unknown setting.
        DatasetUnavailable: the data cannot be had.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        path: Path = "auto",
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
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = None
        self.num_envs = num_envs
        self.teaching = Teaching(Settings.from_kwargs(settings, defaults), given=settings)
        self.path = self._choose(path)
        mapping = Vmap(self.teaching.recorder) if self.path == "vmap" else Loop()
        self.dynamics = self.teaching.dynamics.mapped(mapping)
        self.OBSERVATION_FIELDS = self.teaching.observation_fields
        self.single_observation_space = self.teaching.observation_space
        self.single_action_space = self.teaching.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms = [seeding.np_random()[0] for _ in range(num_envs)]
        self._state: dict[str, Any] | None = None
        self.final_students: StudentState | None = None
        self.actions = self.teaching.neutral_action.expand(num_envs, -1)

    @classmethod
    def like(cls, env: TeachEnv, num_envs: int) -> TeachVectorEnv:
        """The vector environment with the options that a single one was made with."""
        return cls(num_envs, defaults=env.defaults, **env.given)

    @property
    def students(self) -> StudentState:
        """The students in training, a value that later steps leave as it is."""
        return self._current["students"]  # type: ignore[no-any-return]

    @property
    def episodes(self) -> Episode:
        """What the current trainings draw on, a value."""
        return self._current["episodes"]  # type: ignore[no-any-return]

    @property
    def _current(self) -> dict[str, Any]:
        if self._state is None:
            raise gym.error.ResetNeeded("there are no students yet: call reset() first")
        return self._state

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws a split and an untrained student for each.

        Args:
            seed: see the class.
            options: `{"reset_mask": mask}`, a boolean array (B,) as Gymnasium's vector environments take it, resets
                those students only; the others go on, and `_key` masks of the infos leave them out.

        Raises:
            ValueError: another option, a mask of another kind or without a student, or a wrong number of seeds.
            ResetNeeded: a mask that leaves out students who have not begun yet.
        """
        mask = self._mask(reset_options(options, ("reset_mask",)))
        seeds = self._seeds(seed)
        if self._state is None and not mask.all():
            raise gym.error.ResetNeeded("there are no students yet: reset all of them before some of them")
        chosen = np.flatnonzero(mask)
        fresh = {i: seeding.np_random(seeds[i])[0] for i in chosen.tolist() if seeds[i] is not None}
        self._randoms = [fresh.get(i, random) for i, random in enumerate(self._randoms)]
        begun = self._untrained(chosen.tolist())
        if mask.all():
            self._state, self.final_students = begun, None
        else:
            self._put(chosen, begun)
        infos = self._infos()
        return self._current["observation"].copy(), infos | {key: mask.copy() for key in infos if key.startswith("_")}

    def _mask(self, options: dict[str, Any]) -> np.ndarray:
        mask = options.get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,) and mask.any():
            return mask.copy()
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else checks.shown(mask)
        raise ValueError(
            f"reset_mask must be an array of bool, of shape ({self.num_envs},), with True for the students to reset, "
            f"found {found}{' without any True' if isinstance(mask, np.ndarray) and not mask.any() else ''}"
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
        """Trains each student for `steps_per_action` steps; ended episodes start anew within the step.

        Raises:
            ResetNeeded: before `reset`.
            ValueError: actions of wrong shape, with NaN, or outside the box.
            TypeError: actions of other than floating-point numbers.
        """
        now, settings = self._current, self.teaching.settings
        self.actions = self.teaching.parse_action(actions, self.action_space.shape or ())
        students, loss, train_score = self.teaching.advance(
            self.dynamics, now["students"], now["episodes"], self.actions
        )
        train_score = self.teaching.train_score(self.dynamics, students, now["episodes"], train_score)
        objective, score, features = self.teaching.measure(self.dynamics, students, now["dev"], now["episodes"])
        steps = np.asarray(students.step)
        diverged = ~(np.isfinite(loss) & np.isfinite(objective) & np.isfinite(features).all(axis=-1))
        diverged |= ~(np.isfinite(score) & np.isfinite(train_score))
        measured = {"objective": objective, "dev_accuracy": score, "train_accuracy": train_score, "train_loss": loss}
        rewards = np.where(diverged, -float(settings.divergence_penalty), objective - now["objective"])
        observation = self.teaching.observe(steps, train_score, score, features)
        # A diverged student keeps its last finite numbers, and only moves on in time.
        observation[diverged, 1:] = now["observation"][diverged, 1:]
        measured = {name: np.where(diverged, now[name], value) for name, value in measured.items()}
        self._state = now | measured | {"students": students, "observation": observation, "diverged": diverged}
        self._state |= {"stepped_episodes": now["episodes"], "stepped_diverged": diverged}
        self.final_students = students
        terminated = diverged | (steps >= settings.horizon)
        infos = self._infos()
        if terminated.any():
            infos = self._restart(np.flatnonzero(terminated), observation, infos)
        return self._current["observation"].copy(), rewards, terminated, np.zeros(self.num_envs, dtype=bool), infos

    def evaluate(self, split: str = "test") -> dict[str, np.ndarray]:
        """Measures the current students; as `TeachEnv.evaluate`, each value of shape (B,).

        Right after a step that ended an episode the students are new ones; stop one step earlier, or see
        `evaluate_final`.
        """
        return self._evaluate(self.students, self.episodes, split, self._current["diverged"])

    def evaluate_final(self, split: str = "test") -> dict[str, np.ndarray]:
        """Measures the students as they stood after the last step, before any of them started anew."""
        if self.final_students is None:
            raise gym.error.ResetNeeded("no step has been taken since reset()")
        now = self._current
        return self._evaluate(self.final_students, now["stepped_episodes"], split, now["stepped_diverged"])

    def _evaluate(
        self, students: StudentState, episodes: Episode, split: str, diverged: np.ndarray
    ) -> dict[str, np.ndarray]:
        return self.teaching.evaluate(self.dynamics, students, episodes, split, diverged)

    def get_state(self) -> dict[str, Any]:
        """A snapshot that `set_state` continues from bitwise, here or (pickled) in another process."""
        return {
            "settings": self.teaching.fingerprint,
            "num_envs": self.num_envs,
            "random": [random.bit_generator.state for random in self._randoms],
            "current": None if self._state is None else dict(self._state),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot.

        Raises:
            ValueError: the snapshot is of an environment with other settings or another number of students; nothing is
                changed then.
        """
        check_snapshot(state, self.teaching.fingerprint, self.num_envs)
        for random, saved in zip(self._randoms, state["random"], strict=True):
            random.bit_generator.state = saved
        self._state = None if state["current"] is None else dict(state["current"])
        self.final_students = None

    def _choose(self, path: Path) -> Literal["vmap", "loop"]:
        if path not in get_args(Path):
            raise unknown_name("path", path, get_args(Path))
        if path == "loop":
            return "loop"
        student = self.teaching.dynamics.student
        device = torch.device(self.teaching.settings.device)
        if path == "auto" and student.has_convolutions and device.type == "cpu":
            return "loop"
        if self.teaching.dynamics.measure.decodes:
            obstacle: str | None = "it is judged by what it decodes"
        else:
            obstacle = "its forward pass draws random numbers" if student.stochastic else self._vmap_error()
        if obstacle is None:
            return "vmap"
        if path == "vmap":
            raise ValueError(f'path="vmap" does not work for this student: {obstacle}; use path="loop" or "auto"')
        return "loop"

    def _vmap_error(self) -> str | None:
        """What keeps two students from being trained under vmap: an error, or other results than one by one."""
        single = self.teaching.dynamics
        dynamics = single.mapped(Vmap())
        each = [self.teaching.episode(seed) for seed in (0, 1)]
        episodes, neutral = stack_episodes(each), self.teaching.neutral_action
        try:
            with warnings.catch_warnings():
                # Operations that vmap has no rule for: it takes students one by one and says so.
                warnings.filterwarnings("error", message="There is a performance drop")
                students, _ = dynamics.step(dynamics.untrained(episodes), episodes, neutral.expand(2, -1))
                measured = dynamics.metrics(students, *dynamics.dev(episodes))
        except Exception as error:  # whatever a user's network raises
            return (str(error).splitlines() or [type(error).__name__])[0]
        if single.known_pure:
            return None
        for i, episode in enumerate(each):
            student, _ = single.step(single.untrained(episode), episode, neutral)
            pairs = [(single.metrics(student, *single.dev(episode))[0], measured[0][i])]
            pairs += [(t, students.parameters[n][i]) for n, t in student.parameters.items()]
            pairs += [(t, students.buffers[n][i]) for n, t in student.buffers.items() if t.is_floating_point()]
            tolerance = 1e-7 if neutral.dtype == torch.float64 else 1e-3
            if self.teaching.settings.autocast is not None:
                tolerance = 5e-2  # bfloat16 has three digits
            if not all(torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True) for a, b in pairs):
                return "its step under vmap leads to another student than without"
        return None

    def _untrained(self, which: Sequence[int]) -> dict[str, Any]:
        """The state of new episodes for the given students."""
        episodes = stack_episodes([self.teaching.episode(int(self._randoms[i].integers(SEED_BOUND))) for i in which])
        dev = self.dynamics.dev(episodes)
        students, train_score, (objective, score, features) = self.teaching.begin(self.dynamics, episodes, dev)
        return {
            "students": students,
            "episodes": episodes,
            "stepped_episodes": episodes,
            "stepped_diverged": np.zeros(len(which), dtype=bool),
            "dev": dev,
            "observation": self.teaching.observe(np.asarray(students.step), train_score, score, features),
            "objective": objective,
            "dev_accuracy": score,
            "train_accuracy": train_score,
            "train_loss": np.zeros(len(which)),
            "diverged": np.zeros(len(which), dtype=bool),
        }

    def _restart(self, ended: np.ndarray, observation: np.ndarray, infos: dict[str, Any]) -> dict[str, Any]:
        """Puts new episodes in the places of ended ones; returns the infos with the ended ones' last words."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[ended] = True
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in ended:
            final_obs[i] = observation[i].copy()
        final_info = {key: mask.copy() if key.startswith("_") else value for key, value in infos.items()}
        self._put(ended, self._untrained(ended.tolist()))
        return self._infos() | {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": final_info,
            "_final_info": mask,
        }

    def _put(self, rows: np.ndarray, begun: dict[str, Any]) -> None:
        """Puts new episodes in the places of others; what the last step left stays, for `evaluate_final`."""
        stepped = {name: value for name, value in self._current.items() if name.startswith("stepped_")}
        if len(rows) < self.num_envs:
            begun = {key: put(value, rows, begun[key]) for key, value in self._current.items()}
        self._state = begun | stepped

    def _infos(self) -> dict[str, Any]:
        now = self._current
        steps = np.asarray(now["students"].step)
        rates = self.dynamics.rate(np.maximum(steps - 1, 0))
        task = self.teaching.task
        infos: dict[str, Any] = {
            "objective": now["objective"].copy(),
            "dev_accuracy": now["dev_accuracy"].copy(),
            "train_accuracy": now["train_accuracy"].copy(),
            "train_loss": now["train_loss"].copy(),
            "learning_rate": np.broadcast_to(rates, steps.shape).copy(),
            "student_step": steps.copy(),
            "diverged": now["diverged"].copy(),
            "task": np.full(self.num_envs, task.name, dtype=object),
            "dataset": np.full(self.num_envs, task.dataset, dtype=object),
        }
        return infos | {f"_{key}": np.ones(self.num_envs, dtype=bool) for key in infos}
