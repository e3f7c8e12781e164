"""What a trusted dev set is worth by itself: fixed losses on its labels, beside the methods that are judged on it.

The labels of a trusted dev set are a gift: a teacher that beats the best loss on noisy labels has used them. Whether it
used them well is seen beside students that simply train on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from teachenv.experiment.methods import Candidate, Method
from teachenv.losses.plain import usual_loss
from teachenv.problem import Problem

LEARN_FROM = {"dev only": "dev", "train + dev": "pool and dev"}
"""What the students of each method learn from, by the method's name."""


def baselines(problem: Problem, candidates: int) -> dict[str, Method]:
    """Methods that train on the labels of a trusted dev set: on them alone, and on the pool's with them.

    Each is the usual loss of the task's targets (cross-entropy of labels, the squared error of numbers; the plain loss
    beside a teacher network) with weight decays from 0 to 0.01. It is tuned on one half of the dev set by students that
    learn from the other, and its final students learn from all of it.

    Args:
        problem: the task, and the options that the methods of the comparison share.
        candidates: how many weight decays each is tuned over.

    Returns:
        The methods by name; none of a task without a trusted dev set.
    """
    if problem.task.dev is None:
        return {}
    settings, dev = problem.settings, len(problem.task.dev[0])
    common: dict[str, Any] = {"dev_size": None, "dev_measured": None}
    if settings.teacher is None:
        common |= {"loss": "sample-weights", "loss_kwargs": {"base": usual_loss(problem.task)}}
    decays = [0.0, *(float(f"{decay:.1g}") for decay in np.geomspace(1e-3, 1e-2, candidates - 1))]
    methods = {}
    for name, learn_from in LEARN_FROM.items():
        options = {**common, "learn_from": learn_from}
        if learn_from == "dev" and dev - dev // 2 < settings.batch_size:
            options["batch_size"] = dev - dev // 2
        methods[name] = Method(tuple(Candidate({**options, "weight_decay": decay}) for decay in decays))
    return methods
