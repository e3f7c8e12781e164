"""What teachers have in common: Stable-Baselines3's model API (`learn`, `predict`, `save`, `load`)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from meta.saving.resume import Resumable
from meta.wrappers.actions import wrapped_once
from meta.wrappers.base import TeachWrapper
from teachenv import checks
from teachenv.teacher import HasActor, Resumes

Self = TypeVar("Self", bound="Teacher[Any]")
Experience = TypeVar("Experience")


class Step(NamedTuple):
    """What came of one step of all environments; callbacks find it by these names.

    Attributes:
        actions: those that were taken, (envs, ...).
        observations: the next ones, (envs, ...).
        rewards: (envs,).
        dones: (envs,) whose episode ended.
        infos: one for each environment.
    """

    actions: np.ndarray
    observations: Any
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]


class Teacher(Resumable, Generic[Experience]):
    """Collects some experience with students, then improves by it, and so on.

    Args:
        policy: a name in `policy_aliases`, or a policy class.
        env: a `TeachEnv` (or its id), a `TeachVectorEnv`, or an SB3 `VecEnv` of them.
        learning_rate: the step size of the optimiser of θ: a number, or a function of the remaining progress (1 at the
            start, 0 at the end).
        policy_kwargs: options of the policy.
        stats_window_size: the number of last episodes over which the logged means are taken.
        tensorboard_log: the folder of TensorBoard's logs; None: none are written.
        verbose: 1 prints SB3's messages and the log table.
        seed: the seed that θ is drawn with, and that the environment is first reset with.
        device: the device of the policy's networks.
        **unknown: there are no others.

    Raises:
        UnknownOption: an option that there is not, with the nearest one.
        ValueError: an option out of its range, or no environment.

    Attributes:
        wrapper: the wrapper that the teacher needs around an environment, and puts there if it is missing; None: it
            needs none.
    """

    wrapper: ClassVar[type[TeachWrapper] | None] = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-2,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **unknown: Any,
    ) -> None:
        """Checks the options and builds the policy."""
        self._check_options(unknown)
        if _init_setup_model:
            self._check_env(env)
        if not callable(learning_rate):
            learning_rate = checks.number("learning_rate", learning_rate, least=0)
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(gym.spaces.Box,),
        )
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def option_names(cls) -> set[str]:
        """Returns the names of the arguments that a teacher is made with."""
        return checks.options_of(cls, until=Resumable)

    @classmethod
    def _wrap_env(cls, env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if cls.wrapper is not None and isinstance(env, gym.Env):
            env = wrapped_once(env, cls.wrapper, cls.__name__)
        elif cls.wrapper is not None and isinstance(env, gym.vector.VectorEnv):
            raise ValueError(
                f"{cls.__name__} looks through {cls.wrapper.__name__}, which goes around one TeachEnv, found a vector "
                "environment; pass a single one"
            )
        return Resumable._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def _optimizer(self) -> torch.optim.Optimizer | None:
        """Returns the policy's optimiser; None: the policy learns nothing."""
        return vars(self.policy).get("optimizer")

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return (["policy"] if self._optimizer() is None else ["policy", "policy.optimizer"]), []

    @property
    def actor_network(self) -> nn.Module:
        """The policy's network from observations to actions."""
        actor = self.policy.actor
        assert isinstance(actor, nn.Module)
        return actor

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains the teacher for at least `total_timesteps` environment steps, to the end of the last update.

        If a callback stops it, or an exception does, the unfinished update is dropped.

        Args:
            total_timesteps: the number of actions taken in all environments together.
            callback: a callback of SB3, a list of them, or a function.
            log_interval: the number of updates from one log to the next; None: nothing is logged.
            tb_log_name: the name of the run in TensorBoard; empty: that of the class.
            reset_num_timesteps: True: the count of steps begins anew. False: it goes on, as does an interrupted
                training.
            progress_bar: shows SB3's progress bar.

        Raises:
            ValueError: `total_timesteps` is not an integer of at least 0, there is no environment, or the training to
                go on with does not fit the environment.
        """
        with self._learning():
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
            )
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps:
                self.set_mark()
                # Before the update's steps are counted: the first has the full learning rate, the last some of it.
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                experience = self._collect(callback)
                if experience is None:
                    break
                self._improve(experience)
                self._n_updates += 1
                if log_interval and self._n_updates % log_interval == 0:
                    self.dump_logs()
            else:
                self.set_mark(last=True)
            callback.on_training_end()
        return self

    @abstractmethod
    def _collect(self, callback: BaseCallback) -> Experience | None:
        """Gathers what the next update learns from; None if a callback asked to stop."""

    def _step(self, actions: np.ndarray) -> Step:
        """Takes one step in all environments, and counts it.

        What the teacher goes on from has to be put down before `_report_episode`: a callback may save the teacher.
        """
        assert self.env is not None
        step: tuple[Any, ...] = self.env.step(actions)
        self.num_timesteps += self.env.num_envs
        return Step(actions, *step)

    def _report_episode(self, step: Step, callback: BaseCallback) -> bool:
        """Shows a step to the callback, and counts the episodes that ended with it.

        Returns:
            False if the callback asks to stop; nothing is counted then.
        """
        callback.update_locals({"self": self, **step._asdict()})
        if not callback.on_step():
            return False
        self._update_info_buffer(step.infos, step.dones)
        self._episode_num += int(step.dones.sum())
        return True

    @abstractmethod
    def _improve(self, experience: Experience, /) -> None:
        """Updates the policy once, by what `_collect` gathered."""

    def _follow(self, max_grad_norm: float | None) -> None:
        """Takes one optimizer step; `θ.grad` holds the negative of the direction of improvement.

        Logs `train/gradient_norm` (before clipping; a step along one that is not finite is not made) and
        `train/learning_rate`.

        Args:
            max_grad_norm: the norm to which the gradient is clipped; None: not clipped.
        """
        self._update_learning_rate(self.policy.optimizer)
        limit = np.inf if max_grad_norm is None else max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        if norm.isfinite():
            self.policy.optimizer.step()
        self.logger.record("train/gradient_norm", float(norm))

    def dump_logs(self) -> None:
        """Writes means over the last episodes and the counters to the logger, and the log out."""
        assert self.ep_info_buffer is not None
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([e["r"] for e in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([e["l"] for e in self.ep_info_buffer]))
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)


if TYPE_CHECKING:

    def _kept(teacher: Teacher[Any]) -> tuple[Resumes, HasActor]:
        """Lets mypy check that these teachers keep the protocols."""
        return teacher, teacher


def checked_norm(max_grad_norm: float | None) -> float | None:
    """Returns the norm to clip gradients to if it is positive or None.

    Raises:
        ValueError: the norm is not positive.
    """
    # An infinite norm clips nothing, which PyTorch's users write, too.
    if max_grad_norm is None or max_grad_norm == math.inf:
        return max_grad_norm
    return checks.number("max_grad_norm", max_grad_norm, above=0)
