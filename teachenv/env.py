"""One student's training as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from teachenv import checks
from teachenv.randomness import SEED_BOUND
from teachenv.rendering import Frame, draw, text
from teachenv.settings import RENDER_MODES, Settings
from teachenv.state import Episode, StudentState
from teachenv.teaching import Teaching
from teachenv.teaching_checks import check_snapshot, reset_options


class TeachEnv(gym.Env[np.ndarray, np.ndarray]):
    """An episode is the training of one student; an action sets the loss of its next step(s).

    Action: `Box(-1, 1, (n,), float32)`. The loss family says what it means; the zero action is the family's plain loss.

    Observation: `Box(0, 1, (3 + k,), float32)`, named by `OBSERVATION_FIELDS`: progress (student steps / horizon),
    train accuracy (of the last action's minibatches, before each update), dev accuracy, and the measure's features
    (classification: dev precision of each class), as in L2T-DLF.

    Reward: the increase of the dev objective J (classification: expected dev accuracy at `objective_temperature`), so
    that an episode's undiscounted return is J(ω_T) − J(ω_0).

    End: terminated after `horizon` student steps, or when the student diverges (a loss, score, objective or feature
    that is not finite), at a reward of −`divergence_penalty`. Never truncated.

    Info (of `reset` and `step`):
        objective: J, float; the last finite one of a diverged student.
        dev_accuracy: score on dev in [0, 1], float.
        train_accuracy: score on the last minibatches in [0, 1], float.
        train_loss: mean taught loss of the last minibatches, float; 0.0 at reset.
        learning_rate: of the last student step, float; at reset, of the first.
        student_step: student steps so far, int.
        diverged: bool.
        task: str. dataset: str, the data this really is.

    With `teacher` and `loss="distillation"` (`TeachDistill-v0`) a second network trains the student and learns beside
    it (`teachenv.joint`): J is minus the student's cross-entropy on dev, and the observation's further fields are of
    the minibatch that the next action weighs.

    All randomness comes from `np_random`, which draws one seed an episode; the global generators are left as they were.

    Args:
        render_mode: None, `"ansi"` (text) or `"rgb_array"` (learning curves and the current coefficients).
        defaults: settings where none are given, in place of those of `teachenv.Settings`: what the registered ids
            differ in.
        **settings: see `teachenv.Settings`.

    Raises:
        ValueError: a setting out of its range, that does not fit the data, or that has no effect beside the others.
        TypeError: an unknown setting.
        DatasetUnavailable: the data cannot be had.

    Example:
        >>> import gymnasium as gym, numpy as np, teachenv
        >>> env = gym.make("TeachDigits-v0", horizon=20)
        >>> observation, info = env.reset(seed=0)
        >>> neutral = np.zeros(env.action_space.shape, dtype=np.float32)
        >>> terminated = False
        >>> while not terminated:
        ...     observation, reward, terminated, truncated, info = env.step(neutral)
        >>> info["student_step"]
        20
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012 - Gymnasium's declared form

    def __init__(
        self, *, render_mode: str | None = None, defaults: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """Loads the data and builds the student."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, found {render_mode!r}")
        self.render_mode = render_mode
        self.defaults, self.given = defaults, settings
        self.teaching = Teaching(Settings.from_kwargs(settings, defaults), given=settings)
        self.dynamics = self.teaching.dynamics
        self.OBSERVATION_FIELDS = self.teaching.observation_fields
        self.observation_space = self.teaching.observation_space
        self.action_space = self.teaching.action_space
        self._student: StudentState | None = None
        self._episode: Episode | None = None
        self._dev: tuple[torch.Tensor, torch.Tensor] | None = None
        self.action = self.teaching.neutral_action
        self._observation = np.zeros(0)
        self._info: dict[str, Any] = {}
        self._ended = True
        self._curves: list[tuple[int, float, float, float]] = []

    @property
    def student(self) -> StudentState:
        """The student in training, a value that later steps leave as it is."""
        if self._student is None:
            raise gym.error.ResetNeeded("there is no student yet: call env.reset() first")
        return self._student

    @property
    def episode(self) -> Episode:
        """What the current training draws on."""
        if self._episode is None:
            raise gym.error.ResetNeeded("there is no episode yet: call env.reset() first")
        return self._episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws a split and an untrained student.

        Args:
            seed: of this and the later episodes; None: go on with the present generator.
            options: there are none.

        Raises:
            ValueError: an option, or a student that is not finite before the first action.
        """
        reset_options(options, ())
        super().reset(seed=None if seed is None else checks.integer("seed", seed, least=0))
        self._begin(int(self.np_random.integers(SEED_BOUND)))
        assert self._dev is not None
        self._student, self._ended = None, True
        self._student, score, measured = self.teaching.begin(self.dynamics, self.episode, self._dev)
        self._ended = False
        self.action = self.teaching.neutral_action
        self._report(0.0, float(score), measured)
        return self._observation.copy(), dict(self._info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Trains the student for `steps_per_action` steps under the action's loss.

        Raises:
            ResetNeeded: before `reset`, or after the episode's end.
            ValueError: an action of wrong shape, with NaN, or outside the box.
            TypeError: an action of other than floating-point numbers.
        """
        student, settings = self.student, self.teaching.settings
        if self._ended:
            raise gym.error.ResetNeeded("the episode has ended: call env.reset() before the next env.step()")
        self.action = self.teaching.parse_action(action, self.action_space.shape or ())
        self._student, loss, score = self.teaching.advance(self.dynamics, student, self.episode, self.action)
        score = self.teaching.train_score(self.dynamics, self.student, self.episode, score)
        before: float = self._info["objective"]
        if self._report(float(loss), float(score), self._measure()):
            reward = self._info["objective"] - before
        else:
            reward = -float(settings.divergence_penalty)
        self._ended = self._info["diverged"] or self._info["student_step"] >= settings.horizon
        return self._observation.copy(), reward, self._ended, False, dict(self._info)

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Measures the current student on `"test"`, `"dev"`, `"train"` or `"pool"`.

        Returns:
            `<split>_accuracy` and `<split>_error` (fractions; the measure's score and one minus it) and
            `<split>_objective`; of segmentation also `<split>_miou` and `<split>_pixel_accuracy`, of
            detection `<split>_map` and `<split>_map_50`. The test split is touched here and nowhere else.
            `diverged` is 1.0 for a student that diverged, else 0.0. All numbers are finite: outputs that are not are
            measured as outputs of 0, which prefer no answer.
        """
        diverged = bool(self._info.get("diverged", False))
        found = self.teaching.evaluate(self.dynamics, self.student, self.episode, split, diverged)
        return {name: float(value) for name, value in found.items()}

    def get_state(self) -> dict[str, Any]:
        """A snapshot that `set_state` continues from bitwise, here or (pickled) in another process."""
        return {
            "settings": self.teaching.fingerprint,
            "random": self.np_random.bit_generator.state,
            "student": self._student,
            "episode": self._episode.seeds[0] if self._episode is not None else None,
            "action": self.action,
            "observation": self._observation.copy(),
            "info": dict(self._info),
            "ended": self._ended,
            "curves": list(self._curves),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot.

        Raises:
            ValueError: the snapshot is of an environment with other settings; nothing is changed then.
        """
        check_snapshot(state, self.teaching.fingerprint)
        self.np_random.bit_generator.state = state["random"]
        if state["episode"] is not None:
            self._begin(state["episode"])
        self._student = state["student"]
        self.action = state["action"]
        self._observation, self._info = state["observation"].copy(), dict(state["info"])
        self._ended, self._curves = state["ended"], list(state["curves"])

    def render(self) -> Any:
        """The training so far: a text (`"ansi"`) or a picture (`"rgb_array"`, uint8 (height, width, 3))."""
        if self.render_mode is None:
            gym.logger.warn(
                'render() without a render mode shows nothing: make the environment with render_mode="rgb_array"'
            )
            return None
        curves = list(zip(*self._curves, strict=True)) or [(), (), (), ()]
        frame = Frame(
            steps=curves[0],
            objective=curves[1],
            dev_accuracy=curves[2],
            train_loss=curves[3],
            horizon=self.teaching.settings.horizon,
            coefficients=self.dynamics.loss.coefficients(self.action).cpu().numpy(),
            coefficient_label=self.dynamics.loss.coefficient_label,
            title=f"{self.teaching.task.name} · {self.teaching.task.dataset}",
        )
        return draw(frame) if self.render_mode == "rgb_array" else text(frame)

    def _begin(self, seed: int) -> None:
        self._episode = self.teaching.episode(seed)
        self._dev = self.dynamics.dev(self._episode)
        self._ended = False
        self._info, self._curves = {}, []

    def _measure(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self._dev is not None
        return self.teaching.measure(self.dynamics, self.student, self._dev, self.episode)

    def _report(self, loss: float, train_score: float, dev: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
        """Puts a measurement into observation, info and curves; if it diverged keeps the last finite ones: False."""
        objective, score, features = dev
        step = int(self.student.step)
        self._info["student_step"] = step
        self._info["learning_rate"] = float(self.dynamics.rate(max(step - 1, 0)))
        numbers = (loss, train_score, float(objective), float(score))
        self._info["diverged"] = not (all(math.isfinite(x) for x in numbers) and bool(np.isfinite(features).all()))
        if self._info["diverged"]:
            if self._curves:
                self._observation = self._observation.copy()
                self._observation[0] = step / self.teaching.settings.horizon
            return False
        self._info |= {
            "objective": float(objective),
            "dev_accuracy": float(score),
            "train_accuracy": train_score,
            "train_loss": loss,
            "task": self.teaching.task.name,
            "dataset": self.teaching.task.dataset,
        }
        self._observation = self.teaching.observe(step, np.asarray(train_score), score, features)
        # At reset nothing has been trained, and there is no loss to draw.
        self._curves.append((step, float(objective), float(score), loss if self._curves else math.nan))
        return True
