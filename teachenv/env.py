"""One student's training as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from teachenv import checks
from teachenv.dynamics import Dynamics
from teachenv.interface import Interface
from teachenv.parts import spelled_out
from teachenv.problem import Problem
from teachenv.problem_checks import check_snapshot, reset_options
from teachenv.randomness import SEED_BOUND
from teachenv.rendering import Frame, draw, text
from teachenv.settings import RENDER_MODES, Settings
from teachenv.standing import Standing
from teachenv.state import Episode, StudentState
from teachenv.tasks.base import Task


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
        dev_accuracy: score on dev in [0, 1], float; named after the measure (`dev_bleu` of translation,
            `dev_miou` of segmentation, `dev_box_accuracy` of detection).
        train_accuracy: score on the last minibatches in [0, 1], float; named likewise.
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
        **settings: options of the environment; `teachenv.Settings` lists them.

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
        settings = spelled_out(settings)
        self.defaults, self.given = checks.copied(defaults), settings
        self.problem = Problem(Settings.from_kwargs(settings, defaults), given=settings)
        self.interface = Interface(self.problem, self.problem.dynamics)
        self.OBSERVATION_FIELDS = self.interface.observation_fields
        self.observation_space = self.interface.observation_space
        self.action_space = self.interface.action_space
        self.action = self.problem.neutral_action
        self._standing: Standing | None = None
        self._ended = True
        self._curves: list[tuple[int, float, float, float]] = []

    @property
    def task(self) -> Task:
        """The data, label noise in place."""
        return self.problem.task

    @property
    def dynamics(self) -> Dynamics:
        """The training of the student as pure functions."""
        return self.interface.dynamics

    @property
    def student(self) -> StudentState:
        """The student in training, a value that later steps leave as it is."""
        return self._now.students

    @property
    def episode(self) -> Episode:
        """What the current training draws on."""
        return self._now.episodes

    @property
    def _now(self) -> Standing:
        if self._standing is None:
            raise gym.error.ResetNeeded("there is no student yet: call env.reset() first")
        return self._standing

    def predict(self, inputs: Any) -> torch.Tensor:
        """Outputs of the current student in evaluation mode, (n, outputs, ...), without gradients.

        With a teacher network they are the student's alone, (n, classes).

        Args:
            inputs: samples in the task's form, (n, ...): an array, a data frame, or a dictionary of such.

        Raises:
            ValueError: they are no such samples, are not finite, or have other columns than the pool's.
            TypeError: they are no numbers.
            ResetNeeded: before `reset`.
        """
        return self.interface.predict(self.student, inputs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws a split and a student: an untrained one, or with `warm_start` one that has taken so many steps.

        Args:
            seed: seed of this and the later episodes; None: go on with the present generator.
            options: there are none.

        Raises:
            ValueError: an option, or a student that is not finite before the first action.
        """
        reset_options(options, ())
        super().reset(seed=None if seed is None else checks.integer("seed", seed, least=0))
        self._standing, self._ended = None, True
        self._standing = self.interface.begin(self.problem.episodes.of(int(self.np_random.integers(SEED_BOUND))))
        self.action, self._ended, self._curves = self.problem.neutral_action, False, []
        self._remember()
        return self._standing.observation.copy(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Trains the student for `steps_per_action` steps under the action's loss.

        Raises:
            ResetNeeded: before `reset`, or after the episode's end.
            ValueError: an action of wrong shape, with NaN, or outside the box.
            TypeError: an action of other than floating-point numbers.
        """
        before = self._now
        if self._ended:
            raise gym.error.ResetNeeded("the episode has ended: call env.reset() before the next env.step()")
        self.action = self.interface.parse_action(action, self.action_space.shape or ())
        self._standing, reward = self.interface.step(before, self.action)
        self._ended = bool(self.interface.ended(self._standing))
        if not self._standing.diverged:
            self._remember()
        return self._standing.observation.copy(), float(reward), self._ended, False, self._info()

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Measures the current student on `"test"`, `"dev"`, `"train"` or `"pool"`.

        Returns:
            `<split>_accuracy` and `<split>_error` (fractions; the measure's score, named after it, and one minus it)
            and `<split>_objective`; of segmentation also `<split>_pixel_accuracy`, of
            detection `<split>_map` and `<split>_map_50`. The test split is touched here and nowhere else.
            `diverged` is 1.0 for a student that diverged, else 0.0. All numbers are finite: outputs that are not are
            measured as outputs of 0, which prefer no answer.
        """
        numbers = self.interface.evaluate(self.student, self.episode, split, self._now.diverged)
        return {name: float(value) for name, value in numbers.items()}

    def get_state(self) -> dict[str, Any]:
        """A snapshot that `set_state` continues from bitwise, here or (pickled) in another process."""
        now = self._standing
        return {
            "kind": "TeachEnv",
            "settings": self.problem.fingerprint,
            "random": self.np_random.bit_generator.state,
            "standing": None if now is None else now.saved(),
            "action": self.action,
            "ended": self._ended,
            "curves": list(self._curves),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot.

        Raises:
            ValueError: the snapshot is of another kind of environment, of one with other settings, or damaged; nothing
                is changed then.
        """
        check_snapshot(state, self.get_state(), Settings().fingerprint(), [self.np_random])
        standing = self.interface.loaded(state["standing"])
        self.np_random.bit_generator.state = state["random"]
        self._standing = standing
        self.action, self._ended, self._curves = state["action"], state["ended"], list(state["curves"])

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
            dev_score=curves[2],
            train_loss=curves[3],
            horizon=self.problem.settings.horizon,
            coefficients=self.dynamics.coefficients(self.action).cpu().numpy(),
            coefficient_label=self.dynamics.loss.coefficient_label,
            title=f"{self.task.name} · {self.task.dataset}",
            score_name=self.dynamics.measure.score_name.replace("_", " "),
        )
        return draw(frame) if self.render_mode == "rgb_array" else text(frame)

    def _info(self) -> dict[str, Any]:
        return {
            name: value if isinstance(value, str) else value.item()
            for name, value in self.interface.info(self._now).items()
        }

    def _remember(self) -> None:
        now = self._now
        # At reset nothing has been trained, and there is no loss to draw.
        loss = float(now.train_loss) if self._curves else math.nan
        self._curves.append((int(now.students.step), float(now.objective), float(now.dev_score), loss))
