"""The methods of the comparison on `TeachDistill-v0`: what weighs the samples that a teacher network learns from."""

from __future__ import annotations

import agents.methods
import meta.methods
from teachenv.experiment.methods import Method, candidates

_SCALES = [0.5, 1.0, 2.0, 4.0]
_TWICE = [1.0, 1.0, 4.0, 4.0]

METHODS: dict[str, Method] = {
    # Uniform weights; without others what is left to choose is how much the teacher network listens to its student.
    "prokt": Method(candidates("prokt", {"teacher_labels": [0.3, 0.6, 0.8, 1.0]})),
    "influence-weights": meta.methods.influence(scale=_SCALES),
    "random": meta.methods.random(scale=_SCALES),
    "ddpg": agents.methods.ddpg(
        "SamplePolicy",
        scale=_TWICE,
        learning_rate=[1e-4, 1e-3, 1e-4, 1e-3],
        action_penalty=10.0,
        policy_kwargs={"net_arch": {"pi": [32], "qf": [128, 128]}},
    ),
    "rmd": meta.methods.rmd("SamplePolicy", scale=_TWICE, learning_rate=[0.01, 0.03, 0.01, 0.03]),
    # The same gradient, hence the same best candidate.
    "finite-difference": meta.methods.finite_difference(
        "SamplePolicy", tuned_as="rmd", scale=_TWICE, learning_rate=[0.01, 0.03, 0.01, 0.03]
    ),
}
