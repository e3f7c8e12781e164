"""The environment and options that all methods of a comparison share, and what each method changes of them."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, TimeLimit

from teachenv.env import TeachEnv
from teachenv.errors import UnknownOption, unknown_name
from teachenv.experiment.methods import Candidate, Method
from teachenv.parts import laid_over, spelled_out
from teachenv.problem import Problem
from teachenv.teacher import Acts, Learns, is_followed, lacking
from teachenv.vector_env import TeachVectorEnv


@dataclass(frozen=True)
class Configuration:
    """One choice of what is tuned of a method.

    Attributes:
        student: options of the environment that all methods are tuned over, by name: `learning_rate`, `lr_schedule`.
        candidate: index into the method's candidates.
    """

    student: Mapping[str, Any]
    candidate: int = 0

    def __str__(self) -> str:
        shown = (f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in self.student.items())
        return ", ".join([*shown, f"candidate {self.candidate + 1}"])


class TrainsNoStudent(ValueError):
    """An environment that is registered, but in which a comparison cannot train students."""


def check_trains(name: str, env: gym.Env[Any, Any]) -> None:
    """Refuses an environment that is none of this library's.

    Args:
        name: what the user calls it.
        env: the environment.

    Raises:
        TrainsNoStudent: it is no `TeachEnv`.
    """
    if not isinstance(env.unwrapped, TeachEnv):
        raise TrainsNoStudent(
            f"environment {name!r} trains no student: found a {type(env.unwrapped).__name__}, expected a "
            "teachenv.TeachEnv, such as 'TeachDigits-v0'"
        )


def _bare(name: str, env: gym.Env[Any, Any]) -> TeachEnv:
    """The `TeachEnv` of a registration, which a comparison trains in batches, without what is around it.

    Raises:
        TrainsNoStudent: something around it, or a subclass, changes what it does; that would be lost.
    """
    teach, layer = env.unwrapped, env
    assert isinstance(teach, TeachEnv)
    refused, advice = "", "give it to the methods (teachenv.experiment.Method(wrapper=...)), and register without it"
    while isinstance(layer, gym.Wrapper) and not refused:
        if isinstance(layer, TimeLimit) and layer._max_episode_steps < teach.problem.actions:
            refused = f"max_episode_steps={layer._max_episode_steps}, which ends its episodes early"
            advice = f"leave it out: its {teach.problem.actions} actions follow from horizon and steps_per_action"
        elif not isinstance(layer, TimeLimit | OrderEnforcing | PassiveEnvChecker | RecordEpisodeStatistics):
            refused = f"the wrapper {type(layer).__name__}"
        layer = layer.env
    if type(teach) is not TeachEnv:
        refused, advice = f"a subclass, {type(teach).__name__}", "change the task, the loss or the student instead"
    if refused:
        raise TrainsNoStudent(
            f"environment {name!r} is registered with {refused}; a comparison trains students in batches, without it: "
            f"{advice}"
        )
    return teach


@dataclass(frozen=True)
class OneByOne:
    """Students who are taught one after the other, because their teacher looks through a wrapper.

    Attributes:
        env: an environment of one student, wrapped or not.
        count: how many students.
    """

    env: gym.Env[Any, Any]
    count: int = 1


@dataclass(frozen=True)
class Setting:
    """An environment and the options that all methods share.

    Attributes:
        env: a registered id (`"TeachDigits-v0"`, `"mypackage:Mine-v0"`); None: `TeachEnv` itself, whose task is then
            among the options.
        options: the environment's options, for all methods; objects of one's own among them.
        loss: the teachers' loss family; None: the environment's own.
        final: options in which the final students' training differs from the one that teachers learn on.
        lasts: whether this is the final students' training.
    """

    env: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: Any = "bilinear"
    final: Mapping[str, Any] = field(default_factory=dict)
    lasts: bool = False

    def lasting(self, part: float = 1.0) -> Setting:
        """The setting of the final students, or of a training run with a part of their steps, in as many actions."""
        options = {**self.options, **self.final}
        if part != 1.0:
            horizon, steps = (self._option(name, options) for name in ("horizon", "steps_per_action"))
            each = max(1, round(part * steps))
            options |= {"horizon": horizon // steps * each, "steps_per_action": each}
        return replace(self, options=options, final={}, lasts=True)

    def _option(self, name: str, options: Mapping[str, Any]) -> Any:
        """An option among these, or what the environment has where none is given."""
        if name in options:
            return options[name]
        return getattr(self.make_single(Method(), Configuration({})).problem.settings, name)

    def make(self, students: int, method: Method, configuration: Configuration, **more: Any) -> TeachVectorEnv:
        """Makes the batched environment of a method in a configuration."""
        options = self._options(method, configuration, more)
        if self.env is None:
            return TeachVectorEnv(students, **options)
        name = registered(self.env)
        if gym.spec(name).vector_entry_point is None:
            return TeachVectorEnv.like(self._made(options), students)
        env = gym.make_vec(name, num_envs=students, **options).unwrapped
        assert isinstance(env, TeachVectorEnv)
        return env

    def make_single(self, method: Method, configuration: Configuration, **more: Any) -> TeachEnv:
        """Makes the environment of one student."""
        options = self._options(method, configuration, more)
        return TeachEnv(**options) if self.env is None else self._made(options)

    def students(
        self, count: int, method: Method, configuration: Configuration, **more: Any
    ) -> TeachVectorEnv | OneByOne:
        """Makes fresh students for `teach`, as the method's teacher can teach them."""
        if method.wrapper is None:
            return self.make(count, method, configuration, **more)
        return OneByOne(method.wrapper(self.make_single(method, configuration, **more)), count)

    def teacher(self, method: Method, configuration: Configuration, seed: int, parallel: int) -> Any:
        """Makes a method's untrained teacher in an environment of `parallel` students; None: the method has no teacher.

        Raises:
            ValueError: what the method makes is no teacher.
        """
        if method.make is None:
            return None
        options = candidate_of(method, configuration).teacher
        env: TeachEnv | TeachVectorEnv
        if method.wrapper is not None:
            env = self.make_single(method, configuration)
            options = {**options, "students_per_update": parallel}
        else:
            env = self.make(parallel, method, configuration)
        teacher = method.make(env, seed, options)
        if names := lacking(teacher, Learns if method.learns else Acts):
            raise ValueError(
                f"the method makes a {type(teacher).__name__} without {' and '.join(names)}, expected a teacher with "
                f"predict{' and learn' if method.learns else ''}, as Stable-Baselines3's algorithms have them"
            )
        if not method.learns or is_followed(teacher):
            return teacher
        return Unfollowed(teacher, env)

    def _made(self, options: Mapping[str, Any]) -> TeachEnv:
        assert self.env is not None
        try:
            env = gym.make(registered(self.env), **options)
        except TypeError as error:
            # Gymnasium adds all options that it was given.
            reason = str(error).partition(" was raised from the environment creator")[0]
            if isinstance(error, UnknownOption):
                raise UnknownOption(reason) from error
            with suppress(TypeError):
                check_trains(self.env, gym.make(registered(self.env)))
            raise ValueError(
                f"environment {self.env!r} does not take the options of one that trains students: {reason}"
            ) from error
        check_trains(self.env, env)
        return _bare(self.env, env)

    def _options(self, method: Method, configuration: Configuration, more: Mapping[str, Any]) -> dict[str, Any]:
        chosen = candidate_of(method, configuration).environment
        options = laid_over(configuration.student, laid_over(chosen, self.options))
        # Those of all methods, and the candidate's own beside them.
        loss_kwargs = {**spelled_out(self.options).get("loss_kwargs", {}), **spelled_out(chosen).get("loss_kwargs", {})}
        if loss_kwargs:
            options["loss_kwargs"] = loss_kwargs
        if self.loss is not None:
            options.setdefault("loss", self.loss)
        if not self.lasts and method.episode_rate != 1.0:
            options["learning_rate"] = self._option("learning_rate", options) * method.episode_rate
        return {**options, **more}


class Unfollowed:
    """A teacher that calls no callback as it learns: of it only `learn(total_timesteps)` and `predict` are used.

    Args:
        teacher: the teacher.
        env: the teacher's environment.

    Attributes:
        num_timesteps: steps of the environment that it has spent, of all students together. One that steps no
            environment (it may differentiate training runs as a whole) counts as having spent what it was given.
    """

    def __init__(self, teacher: Learns, env: TeachEnv | TeachVectorEnv) -> None:
        self.predict, self.env, self.num_timesteps = teacher.predict, env, 0
        self._learn = teacher.learn

    def learn(
        self,
        total_timesteps: int,
        *,
        callback: Any,
        log_interval: int | None = None,
        reset_num_timesteps: bool = True,
    ) -> None:
        """Measures the untrained teacher, and trains it.

        Args:
            total_timesteps: how many steps of its environment it may take.
            callback: measures a teacher, in `mark(teacher)`.
            log_interval: not used.
            reset_num_timesteps: not used.

        Raises:
            ValueError: it took more steps than it was given, by more than an episode of each student.
        """
        callback.mark(self)
        interface = self.env.interface
        before = interface.steps_taken
        self._learn(total_timesteps)
        taken = interface.steps_taken - before
        most = total_timesteps + getattr(self.env, "num_envs", 1) * self.env.problem.actions
        if taken > most:
            raise ValueError(
                f"the teacher took {taken:,} steps of its environment, expected at most {most:,}: the "
                f"{total_timesteps:,} that learn was given, and an episode of each student; teachers are compared at "
                "equal budgets"
            )
        self.num_timesteps = taken or total_timesteps


def problem_of(students: TeachVectorEnv | OneByOne) -> Problem:
    """The problem of an environment: what students are taught, and how."""
    env = students.env.unwrapped if isinstance(students, OneByOne) else students
    assert isinstance(env, TeachEnv | TeachVectorEnv)
    return env.problem


def registered(env: str) -> str:
    """The id of an environment without the module before it, which is imported first: it registers the environment.

    Raises:
        ImportError: the module cannot be imported.
        ValueError: nothing of that id is registered, with the nearest that is.
    """
    module, _, name = env.rpartition(":")
    if module:
        imported(module, env)
    if name not in gym.registry:
        error = unknown_name("environment", name, [known for known in gym.registry if known.startswith("Teach")])
        raise (error if module else ValueError(f"{error}, or yours as mypackage:Mine-v0"))
    return name


def imported(module: str, name: str) -> Any:
    """Imports a module of the user's.

    Args:
        module: the module's name.
        name: what the user gave, of which it is a part.

    Raises:
        ImportError: it cannot be found, in words; or what its own imports raise.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"found no module {module!r} (of {name!r}), expected one that Python can import: run this in the folder "
            "that has it, or install it"
        ) from error


def candidate_of(method: Method, configuration: Configuration) -> Candidate:
    """The method's candidate in a configuration, which may be another method's that has more of them: a copy.

    Rows are known by it, and SB3 writes into the `policy_kwargs` that it is given.
    """
    return copy.deepcopy(method.candidates[min(configuration.candidate, len(method.candidates) - 1)])
