"""The training of a student that learns by reinforcement, as a Gymnasium environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from teachenv import checks
from teachenv.problem_checks import check_snapshot, checked_action, damaged, reset_options
from teachenv.randomness import SEED_BOUND, Purpose
from teachenv.rendering import Frame, draw, text
from teachenv.rl.dynamics import ControlDynamics, ControlStudent, Learned
from teachenv.rl.settings import ControlSettings
from teachenv.settings import RENDER_MODES

FIELDS = ("progress", "mean_return", "entropy", "explained_variance", "kl")
"""What is observed; `TeachControlEnv` says of each what it is."""
_USUAL_KL = 0.01


@dataclass(frozen=True)
class ControlProblem:
    """What teachers ask of an environment's problem; see `teachenv.teacher.Taught`.

    Attributes:
        settings: the environment's.
    """

    settings: ControlSettings

    @property
    def meaning(self) -> dict[str, str]:
        """What an action sets, which decides what it means."""
        return {"control": ", ".join(self.settings.control)}

    @property
    def fingerprint(self) -> dict[str, str]:
        """A text for each setting, as a snapshot carries it."""
        return self.settings.fingerprint()

    @property
    def actions(self) -> int:
        """The actions of an episode."""
        return self.settings.horizon


@dataclass(frozen=True, eq=False)
class ControlStanding:
    """Where a training stands.

    Attributes:
        seed: the episode's.
        student: the student.
        learned: what is known of its last update.
        mean_return: of the evaluation episodes.
        diverged: whether a number of the student's is not finite.
    """

    seed: int
    student: ControlStudent
    learned: Learned
    mean_return: float
    diverged: bool = False


class TeachControlEnv(gym.Env[np.ndarray, np.ndarray]):
    """An episode is the training of one policy by PPO; an action sets PPO's coefficients for the next update.

    Each step, the student acts in copies of a control task for a rollout, and learns from it by PPO with the action's
    coefficients. Its update is Stable-Baselines3's, and the tasks are Gymnasium's, both as pure functions.

    Action: `Box(-1, 1, (k,), float32)`, a coordinate for each name in `control`; the zero action is plain PPO.
    `teachenv.rl.coefficients` has the maps.

    Observation: `Box((5,), float32)`, named by `OBSERVATION_FIELDS`:
        progress: updates / horizon, in [0, 1].
        mean_return: J, in [0, 1].
        entropy: of the policy, in [0, 1]: H over that of uniform choices; of numbers as actions 1/(1 + exp(−H)).
        explained_variance: of the value network before the update, cut to [−1, 1]; 0 at reset.
        kl: how far the last update took the policy, KL/(KL + 0.01), in [0, 1]; 0 at reset.

    Reward: the increase of J, the mean return of `evaluation_episodes`, brought to [0, 1] by the bounds that the task
    allows (CartPole 0 to 500, Acrobot −500 to 0, Pendulum −3254.7 to 0). Their first states are the same after each
    update of an episode, and the student takes its most likely actions there.

    End: terminated after `horizon` updates, or when the student diverges (a parameter that is not finite), at a reward
    of −`divergence_penalty`. Never truncated.

    Info (of `reset` and `step`):
        objective: J, float.
        dev_return: the mean return itself, float.
        train_loss: PPO's loss, the mean over the last update's minibatches, float; 0.0 at reset.
        value_loss: the value network's part of it, float; 0.0 at reset.
        entropy: of the policy, in nats, float.
        explained_variance: float, at least −1000. kl: float.
        learning_rate: of the last update, float; at reset that of a neutral one.
        student_step: updates so far, int. env_steps: the student's steps in its task so far, int.
        diverged: bool.
        task: str. dataset: str, `"gymnasium"`.

    All randomness comes from `np_random`, which draws one seed an episode; the global generators are left as they were.

    Args:
        render_mode: None, `"ansi"` (text) or `"rgb_array"` (the mean return and the present coefficients).
        defaults: settings where none are given.
        **settings: options of the environment; `teachenv.rl.ControlSettings` lists them.

    Raises:
        ValueError: a setting out of its range.
        TypeError: an unknown setting.

    Example:
        >>> import gymnasium as gym, numpy as np, teachenv
        >>> env = gym.make("TeachControl-v0", horizon=2, rollout_steps=16)
        >>> observation, info = env.reset(seed=0)
        >>> terminated = False
        >>> while not terminated:
        ...     observation, reward, terminated, truncated, info = env.step(np.zeros(5, dtype=np.float32))
        >>> info["env_steps"]
        256
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012 - Gymnasium's declared form
    OBSERVATION_FIELDS = FIELDS

    def __init__(
        self, *, render_mode: str | None = None, defaults: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """Checks the settings."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, found {render_mode!r}")
        self.render_mode = render_mode
        self.problem = ControlProblem(ControlSettings.from_kwargs({**(defaults or {}), **settings}))
        self.dynamics = ControlDynamics(self.problem.settings)
        low = np.array([-1.0 if name == "explained_variance" else 0.0 for name in FIELDS], np.float32)
        self.observation_space: gym.spaces.Box = gym.spaces.Box(low, np.ones(len(FIELDS), np.float32))
        self._neutral = np.zeros(len(self.problem.settings.control), np.float32)
        self.action_space: gym.spaces.Box = gym.spaces.Box(-1.0, 1.0, self._neutral.shape)
        self.action = self._neutral
        self._standing: ControlStanding | None = None
        self._ended = True
        self._curves: list[tuple[int, float, float]] = []

    @property
    def student(self) -> ControlStudent:
        """The student in training, a value that later steps leave as it is."""
        return self._now.student

    @property
    def episode(self) -> int:
        """The present episode's seed: what `dynamics` draws everything from."""
        return self._now.seed

    @property
    def _now(self) -> ControlStanding:
        if self._standing is None:
            raise gym.error.ResetNeeded("there is no student yet: call env.reset() first")
        return self._standing

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws an untrained student and its evaluation episodes.

        Args:
            seed: seed of this and the later episodes; None: go on with the present generator.
            options: there are none.

        Raises:
            ValueError: an option.
        """
        reset_options(options, ())
        super().reset(seed=None if seed is None else checks.integer("seed", seed, least=0))
        drawn = int(self.np_random.integers(SEED_BOUND))
        student = self.dynamics.init(drawn)
        learned = Learned(entropy=self.dynamics.entropy(student))
        self._standing = ControlStanding(drawn, student, learned, self._measured(student, drawn))
        self.action, self._ended, self._curves = self._neutral, False, []
        self._remember()
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Lets the student act, and learn under the action's coefficients.

        Raises:
            ResetNeeded: before `reset`, or after the episode's end.
            ValueError: an action of wrong shape, with NaN, or outside the box.
            TypeError: an action of other than floating-point numbers.
        """
        before = self._now
        if self._ended:
            raise gym.error.ResetNeeded("the episode has ended: call env.reset() before the next env.step()")
        self.action = checked_action(action, self._neutral.shape, self.action_space).copy()
        student, learned = self.dynamics.step(before.student, self.action, before.seed)
        finite = all(bool(p.isfinite().all()) for p in student.parameters.values())
        if finite and all(map(math.isfinite, learned)):
            self._standing = ControlStanding(before.seed, student, learned, self._measured(student, before.seed))
            reward = self.dynamics.objective(self._standing.mean_return) - self.dynamics.objective(before.mean_return)
        else:
            # The student that diverged stays as it last was, but for its count of updates.
            last = replace(before.student, updates=student.updates)
            self._standing = replace(before, student=last, diverged=True)
            reward = -self.problem.settings.divergence_penalty
        now = self._standing
        self._ended = now.diverged or now.student.updates >= self.problem.settings.horizon
        self._remember()
        return self._observation(), reward, self._ended, False, self._info()

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Measures the current student on the episodes of `"dev"`, or on others, `"test"`.

        Returns:
            `<split>_return`, the mean return, `<split>_objective`, that brought to [0, 1], and `diverged`, 1.0 for a
            student that diverged (measured as it was before), else 0.0.

        Raises:
            ValueError: another split.
        """
        now = self._now
        mean_return = self._measured(now.student, now.seed, checks.choice("split", split, ("dev", "test")))
        numbers = {f"{split}_return": mean_return, f"{split}_objective": self.dynamics.objective(mean_return)}
        return numbers | {"diverged": float(now.diverged)}

    def get_state(self) -> dict[str, Any]:
        """A snapshot that `set_state` continues from bitwise, here or (pickled) in another process."""
        now = self._standing
        saved = None if now is None else {**vars(now), "student": now.student.saved(), "learned": tuple(now.learned)}
        return {
            "kind": "TeachControlEnv",
            "settings": self.problem.fingerprint,
            "random": self.np_random.bit_generator.state,
            "standing": saved,
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
        defaults = ControlSettings.from_kwargs({"task": self.problem.settings.task}).fingerprint()
        check_snapshot(state, self.get_state(), defaults, [self.np_random])
        saved = state["standing"]
        try:
            standing = saved and ControlStanding(
                **{**saved, "student": ControlStudent(**saved["student"]), "learned": Learned(*saved["learned"])}
            )
        except (TypeError, KeyError) as error:
            raise damaged(f"its 'standing' is {checks.shown(saved)}, expected what get_state() gives") from error
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
        steps, objective, loss = list(zip(*self._curves, strict=True)) or [(), (), ()]
        settings = self.problem.settings
        frame = Frame(
            steps=steps,
            objective=objective,
            dev_score=objective,
            train_loss=loss,
            horizon=settings.horizon,
            coefficients=np.array([self.dynamics.coefficients(self.action).as_list(settings.control)]),
            coefficient_label=", ".join(settings.control),
            title=f"{settings.task} · PPO",
            score_name="return",
        )
        return draw(frame) if self.render_mode == "rgb_array" else text(frame)

    def _measured(self, student: ControlStudent, seed: int, split: str = "dev") -> float:
        s = self.problem.settings
        if split == "test":
            return self.dynamics.mean_return(student, seed, Purpose.HELD_OUT, s.test_episodes)
        return self.dynamics.mean_return(student, seed, Purpose.EVALUATION, s.evaluation_episodes)

    def _observation(self) -> np.ndarray:
        now, choices = self._now, self.dynamics.physics.choices
        learned = now.learned
        entropy = learned.entropy / math.log(choices) if choices else 1 / (1 + math.exp(-learned.entropy))
        values = {
            "progress": now.student.updates / self.problem.settings.horizon,
            "mean_return": self.dynamics.objective(now.mean_return),
            "entropy": entropy,
            "explained_variance": learned.explained_variance,
            "kl": learned.kl / (learned.kl + _USUAL_KL),
        }
        array = np.array([values[name] for name in FIELDS], np.float32)
        return array.clip(self.observation_space.low, self.observation_space.high)

    def _info(self) -> dict[str, Any]:
        now, s = self._now, self.problem.settings
        learned = now.learned
        return {
            "objective": self.dynamics.objective(now.mean_return),
            "dev_return": now.mean_return,
            "train_loss": learned.loss,
            "value_loss": learned.value_loss,
            "entropy": learned.entropy,
            "explained_variance": max(learned.explained_variance, -1000.0),
            "kl": learned.kl,
            "learning_rate": float(self.dynamics.coefficients(self.action).learning_rate),
            "student_step": now.student.updates,
            "env_steps": now.student.updates * s.copies * s.rollout_steps,
            "diverged": now.diverged,
            "task": s.task,
            "dataset": "gymnasium",
        }

    def _remember(self) -> None:
        now = self._now
        loss = now.learned.loss if self._curves else math.nan
        self._curves.append((now.student.updates, self.dynamics.objective(now.mean_return), loss))
