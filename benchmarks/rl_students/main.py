"""The command `python -m benchmarks rl_students`: which students are taught, by whom, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.options import Names, ParallelOptions, Preset, Tables
from benchmarks.rl_students import report, work
from benchmarks.rl_students.work import METHODS, Setting
from teachenv.experiment.cases import Case
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

NAME = "rl_students"

# So short that plain PPO has not learned all.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "CartPole-v1": {"horizon": 12},
    "Acrobot-v1": {"horizon": 8},
    "Pendulum-v1": {"horizon": 20},
}


@dataclass(frozen=True)
class Size:
    """What a preset spends.

    Attributes:
        tasks: which control tasks.
        trainings: students that each teacher learns from.
        students: fresh students that it is measured by.
        seeds: how often all is repeated.
        options: of the environments, beside the usual ones.
    """

    tasks: tuple[str, ...]
    trainings: int
    students: int
    seeds: int
    options: Mapping[str, Any] | None = None

    def setting(self, task: str) -> Setting:
        """What is taught of a task."""
        return Setting(task, self.trainings, self.students, {**_OPTIONS[task], **(self.options or {})})


_SHORT = {"horizon": 2, "copies": 2, "rollout_steps": 16, "epochs": 1, "evaluation_episodes": 2, "test_episodes": 2}
SIZES: Mapping[Preset, Size] = {
    "smoke": Size(("CartPole-v1",), 4, 2, 1, _SHORT),
    "laptop": Size(tuple(_OPTIONS), 32, 12, 3),
    "paper": Size(tuple(_OPTIONS), 400, 32, 10),
}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks rl_students`."""

    tasks: tuple[str, ...] | None = None
    """CartPole-v1, Acrobot-v1, Pendulum-v1; by default the preset's."""

    methods: tuple[str, ...] | None = None
    """ppo (nobody teaches), random, bandit, evolution-strategies, ddpg, meta-gradient; by default all."""

    def _names(self) -> Names:
        return {"method": (self.methods, METHODS), "task": (self.tasks, _OPTIONS)}


def run(options: Options) -> None:
    """Teaches what the folder does not hold yet; writes rows, tables and figures."""
    options.execute(NAME, [lambda session: _cases(options)], lambda rows: report.make(_shown(rows, options)))


def _shown(rows: list[Row], options: Options) -> list[Row]:
    """The rows of this preset's settings, with all methods and seeds that the folder has of them."""
    size = SIZES[options.preset]
    return agreeing(rows, [_case(size.setting(task), method, 0).identity for task in _OPTIONS for method in METHODS])


def _cases(options: Options) -> list[Case]:
    size = SIZES[options.preset]
    return [
        _case(size.setting(task), method, seed)
        for seed in range(options.seeds or size.seeds)
        for task in options.tasks or size.tasks
        for method in options.methods or METHODS
    ]


def _case(setting: Setting, method: str, seed: int) -> Case:
    return Case(
        benchmark=NAME,
        task=setting.task,
        dataset="gymnasium",
        student="PPO",
        method=method,
        seed=seed,
        config=asdict(setting),
        label=f"{setting.task}: {method}, seed {seed}",
        function=work.teach,
        arguments={"setting": setting, "method": method, "seed": seed},
        last="episode_return",
    )


TABLES: Tables = {"table": report.make}
