"""Where training runs stand: the value that an environment holds between two actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
import torch

from teachenv import checks
from teachenv.problem_checks import damaged
from teachenv.state import Episode, StudentState, put, take


@dataclass(frozen=True, eq=False)
class Standing:
    """Where training runs stand: of one student, or of B, whose arrays have a leading dimension B.

    Attributes:
        students: the state of the student, or of the batch.
        episodes: the samples and seeds that they draw on.
        dev: inputs and targets that they are measured on.
        objective: J; the last finite one of a diverged student, as in all that follows.
        dev_score: the measure's score on dev.
        train_score: the score on the last minibatches, before each update.
        train_loss: mean taught loss of the last minibatches; 0.0 before the first.
        rate: the learning rate of the last step, or of the first one to come.
        observation: what a teacher sees.
        diverged: whether a loss, score, objective or feature was not finite.
        memory: what the observer of samples remembers; None where there is none.
    """

    students: StudentState
    episodes: Episode
    dev: tuple[torch.Tensor, torch.Tensor]
    objective: np.ndarray
    dev_score: np.ndarray
    train_score: np.ndarray
    train_loss: np.ndarray
    rate: np.ndarray
    observation: np.ndarray
    diverged: np.ndarray
    memory: Any = None

    def saved(self) -> dict[str, Any]:
        """What a snapshot keeps: the numbers, and the seeds that the rest follows from; see `Interface.loaded`."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("episodes", "dev")}
        return numbers | {"seeds": self.episodes.seeds}

    def with_rows(self, rows: np.ndarray, new: Standing) -> Standing:
        """These training runs with some of them in the places of others.

        Args:
            rows: indices of those that are replaced, int (k,).
            new: the k training runs that take their places.
        """
        return Standing(**{name: put(value, rows, getattr(new, name)) for name, value in vars(self).items()})

    def of_rows(self, rows: np.ndarray) -> Standing:
        """Some of these training runs, those of the indices `rows`, int (k,)."""
        return Standing(**{name: take(value, rows.tolist()) for name, value in vars(self).items()})


def check_saved(saved: Any, students: int) -> None:
    """Refuses what `Standing.saved` cannot have returned for so many students."""
    if not isinstance(saved, Mapping):
        raise damaged(f"its 'standing' is {checks.shown(saved)}, expected values by their names")
    kept = {field.name: field for field in fields(Standing) if field.name not in ("episodes", "dev")}
    needed = ["seeds", *(name for name, field in kept.items() if field.default is MISSING)]
    if missing := [name for name in needed if name not in saved]:
        raise damaged(f"its 'standing' lacks {missing[0]!r}")
    if unknown := [name for name in saved if name not in (*kept, "seeds")]:
        raise damaged(f"its 'standing' has {unknown[0]!r}, which is not known here")
    if not isinstance(saved["students"], StudentState):
        raise damaged(f"its 'students' are {checks.shown(saved['students'])}, expected a StudentState")
    seeds = saved["seeds"]
    if not isinstance(seeds, list | tuple) or len(seeds) != students:
        raise damaged(f"its 'seeds' are {checks.shown(seeds)}, expected {students}")
    if wrong := [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0]:
        raise damaged(f"its 'seeds' hold {checks.shown(wrong[0])}, expected whole numbers of at least 0")
