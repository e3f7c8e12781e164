"""A trial of a measure of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch

from teachenv.tasks.measures import Measure, Network
from teachenv.trial.calls import called, form, fractions, scalar
from teachenv.trial.losses import refuse_broadcasting


def check_names(measure: object) -> None:
    """Refuses what is no measure, and names that are no texts: of features, of what is reported, of the score.

    Raises:
        ValueError: the first such.
    """
    if not isinstance(measure, Measure):
        raise ValueError(f"what students are judged by is {form(measure)}, expected a teachenv.Measure; return one")
    piece = f"of measure {type(measure).__name__}"
    for attribute in ("feature_names", "reported"):
        names = getattr(measure, attribute)
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            advice = "; make it a property or an attribute" if callable(names) else ""
            raise ValueError(f"{attribute} {piece} is {form(names)}, expected a tuple of names{advice}")
    score_name: object = measure.score_name
    if not isinstance(score_name, str) or not score_name:
        raise ValueError(f"score_name {piece} is {form(score_name)}, expected a text such as 'accuracy'")


def try_measure(
    measure: Measure, network: Network, inputs: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype
) -> None:
    """Measures a student on a minibatch in all the ways that an environment does.

    Args:
        measure: the measure, a user's own.
        network: an untrained student.
        inputs: the inputs of a minibatch, as dev has them.
        targets: the targets of the minibatch.
        dtype: the student's.

    Raises:
        ValueError: what it returns is not what `Measure` promises.
    """
    piece, device = f"measure {type(measure).__name__}", targets.device
    with torch.no_grad():
        outputs = network(inputs)
        score = called(f"score of {piece}", measure.score, lambda: (outputs.clone(), targets), device)
        _check_score(piece, score)
        # On outputs first, which tells the functions of an ordinary measure apart.
        if not measure.decodes:
            refuse_broadcasting(f"objective of {piece}", measure.objective, tuple(outputs.shape[1:]), targets)
            called(f"objective of {piece}", measure.objective, lambda: (outputs.clone(), targets), device)
            called(f"features of {piece}", measure.assess, lambda: (outputs.clone(), targets), device)
        judged: object = called(piece, measure.judge, lambda: (network, inputs, targets), device)
        if not isinstance(judged, tuple | list) or len(judged) != 3:
            raise ValueError(f"{piece} judges by {form(judged)}, expected (objective, score, features)")
        objective, score, features = judged
        scalar(f"the objective of {piece}", objective, "return the mean over the samples", dtype)
        _check_score(piece, score)
        _check_features(measure, features)
        if measure.reported:
            _check_report(measure, network, inputs, targets)


def _check_score(piece: str, score: object) -> None:
    fractions(f"the score of {piece}", scalar(f"the score of {piece}", score, "return the mean over the samples"))


def _check_features(measure: Measure, features: object) -> None:
    piece, names = f"the features of measure {type(measure).__name__}", tuple(measure.feature_names)
    if not isinstance(features, torch.Tensor) or features.shape != (len(names),):
        raise ValueError(
            f"{piece} are {form(features)}, expected a tensor of shape ({len(names)},), a number for each of "
            f"feature_names={names}; make both agree"
        )
    fractions(piece, features)


def _check_report(measure: Measure, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    piece = f"report of measure {type(measure).__name__}"
    report: object = called(piece, measure.report_of, lambda: (network, inputs, targets), targets.device)
    if not isinstance(report, Mapping):
        raise ValueError(f"{piece} is {form(report)}, expected a dict of numbers by the names in `reported`")
    for name in measure.reported:
        if name not in report:
            raise ValueError(
                f"{piece} lacks {name!r}, expected each of reported={tuple(measure.reported)}; report it, or leave the "
                "name out"
            )
        value = report[name]
        if not isinstance(value, Real | np.generic) and not (isinstance(value, torch.Tensor) and not value.dim()):
            raise ValueError(f"{piece} has {form(value)} as {name!r}, expected a number")
