"""Checks of what a teaching environment is given: settings beside its data, actions, options of `reset`, snapshots."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from teachenv import checks
from teachenv.control import AUGMENTATION, SETTINGS
from teachenv.episodes import Episodes
from teachenv.losses import LossFamily
from teachenv.losses.plain import USUAL, reads
from teachenv.settings import Settings
from teachenv.tasks.base import Task
from teachenv.tasks.splits import in_form_of, inputs_of
from teachenv.tasks.targets import possible_kinds

_ROUNDINGS = 4
"""How many roundings an action may lie outside of the box."""


def check_learned(settings: Settings, task: Task, loss: LossFamily) -> None:
    """Refuses to learn from a trusted dev set that there is not, or with weights that its samples do not have.

    Raises:
        ValueError: the first that does not fit.
    """
    if settings.learn_from == "pool":
        return
    if task.dev is None:
        raise ValueError(
            f"learn_from={settings.learn_from!r} needs a trusted dev set, but task {task.name!r} has none: give it one "
            "as teachenv.Task(..., dev=(inputs, targets)), or take one out of the pool with trusted_dev=100"
        )
    if loss.of_pool:
        raise ValueError(
            f"weights of the pool's samples do not go with learn_from={settings.learn_from!r}, which trains on samples "
            'of dev: leave learn_from at "pool"'
        )


def check_control(settings: Settings, task: Task, augments: bool) -> tuple[str, ...]:
    """Refuses what cannot be controlled; returns the names of what is.

    Args:
        settings: of the problem.
        task: the data.
        augments: whether minibatches are augmented.

    Raises:
        ValueError: a setting of the optimiser that is 0, which its map leaves at 0, a momentum of 1 or more, or one
            that the optimiser does not have; or an augmentation where minibatches are not augmented, or are trimmed.
    """
    if AUGMENTATION in settings.control:
        if not augments:
            cause = f"task {task.name!r} has no augmentation" if task.augment is None else "augment=False"
            raise ValueError(
                f"control holds 'augmentation', but {cause}; give teachenv.Task(..., augment=...) and leave augment "
                "out, or leave it out of control"
            )
        if task.trim is not None:
            raise ValueError(
                f"control holds 'augmentation', but task {task.name!r} trims minibatches, and those that are augmented "
                "more or less often could differ in length; leave it out"
            )
    for name in settings.control:
        setting = SETTINGS.get(name)
        if setting == "momentum" and settings.optimizer != "sgd":
            raise ValueError(
                f"control holds 'momentum', which optimizer={settings.optimizer!r} does not have as an option of the "
                "environment; take optimizer='sgd', or leave it out"
            )
        if setting is not None and not getattr(settings, setting):
            raise ValueError(
                f"control holds {name!r}, whose actions change {setting}=0 by a factor, to no effect; give {setting} "
                "a value above 0, or leave it out"
            )
        if setting == "momentum" and settings.momentum >= 1:
            raise ValueError(
                f"control holds 'momentum', whose map 1 - (1 - momentum)^(1 + a) needs momentum below 1, found "
                f"{settings.momentum:g}; make it smaller, or leave it out"
            )
    return settings.control


def check_loss_alone(problem: Any, who: str) -> None:
    """Refuses a problem whose actions set more, or other things, than the loss.

    Args:
        problem: a `Problem`.
        who: what takes an action for the loss's, for the message.

    Raises:
        ValueError: it is such a one.
    """
    if problem.settings.control != ("loss",):
        raise ValueError(
            f"{who} goes with actions that set the loss alone, found control={problem.settings.control}; leave control "
            "out"
        )


def check_sizes(episodes: Episodes) -> None:
    """Refuses splits that are larger than the data.

    Args:
        episodes: what draws them.

    Raises:
        ValueError: they are, or more of dev is measured than it has, or a minibatch is larger than the training data.
    """
    settings, task, dev, train = episodes.settings, episodes.task, episodes.dev_size, episodes.train_size
    if dev > episodes.most_dev or train < 1 or (settings.train_on == "split" and train > episodes.most_train):
        beside = "" if task.dev is None else f" beside a trusted dev set of {len(task.dev[0])}"
        learned = "" if settings.learn_from == "pool" else f", learn_from={settings.learn_from!r}"
        raise ValueError(
            f"the splits are larger than the data: train_size={settings.train_size} and dev_size={dev} of a pool of "
            f"{len(task.pool[0])} samples{beside} ({task.name}){learned}; make them smaller"
        )
    if settings.dev_measured is not None and settings.dev_measured > dev:
        raise ValueError(f"dev_measured must be at most dev_size={dev}, found {settings.dev_measured}")
    if settings.batch_size > train:
        raise ValueError(
            f"batch_size={settings.batch_size} is larger than the {train} training samples; make it smaller"
            f"{', or dev_size' if settings.train_on == 'split' else ''}"
        )


def check_networks(settings: Settings, task: Task, loss: LossFamily) -> None:
    """Refuses a teacher network without distillation, distillation without one, and what does not go with both.

    Raises:
        ValueError: the first that does not fit.
    """
    if loss.of_pairs != (settings.teacher is not None):
        raise ValueError(
            f"found loss={settings.loss!r} {'without' if loss.of_pairs else 'with'} a teacher network: "
            'loss="distillation" and teacher="mlp" (or another network) go together'
        )
    if not loss.of_pairs:
        return
    if task.measure is not None:
        raise ValueError(f"distillation is for classifiers alone, but task {task.name!r} has a measure of its own")
    if settings.warm_start:
        raise ValueError("warm_start is for a student without a teacher network; leave it at 0")


def check_observed(settings: Settings, task: Task, loss: LossFamily, classifies: bool) -> None:
    """Refuses to observe samples where an action does not weigh those of one minibatch, or they have no label.

    Raises:
        ValueError: `observe_samples` with what it does not go with.
    """
    if not settings.observe_samples:
        return
    if loss.of_pairs or not loss.of_places:
        raise ValueError(
            f"observe_samples=True with loss={settings.loss!r}: "
            + ("with a teacher network samples are observed anyway; " if loss.of_pairs else "")
            + 'it goes with losses whose actions weigh a minibatch\'s samples, such as "sample-weights"'
        )
    if settings.steps_per_action != 1:
        raise ValueError(
            f"observe_samples=True needs an action for each minibatch: steps_per_action=1, found "
            f"{settings.steps_per_action}"
        )
    if not classifies:
        raise ValueError(f"observe_samples=True needs samples of one label, but task {task.name!r} has others")


def check_targets(settings: Settings, task: Task, loss: LossFamily) -> None:
    """Refuses losses of other targets than the task has: of class labels for regression, say.

    Raises:
        ValueError: the loss reads other targets, or the warm start's cross-entropy does.
    """
    if task.decisions is not None:
        return
    targets = task.pool[1]
    kinds = possible_kinds(targets) if task.target_kind is None else {task.target_kind}
    what = "" if task.target_kind is None else f"{task.target_kind}, "
    targets_are = (
        f"targets of task {task.name!r} are {what}{targets.dtype} of shape {tuple(targets.shape[1:])} a sample"
    )
    if loss.reads and not kinds & {*loss.reads}:
        read = " or ".join("class labels" if each == "labels" else each for each in loss.reads)
        base = USUAL["numbers" if "numbers" in kinds else min(kinds)]
        options = f" with loss_kwargs={checks.shown(settings.loss_kwargs)}" if settings.loss_kwargs else ""
        raise ValueError(
            f"loss={checks.shown(settings.loss)}{options} is for {read}, but {targets_are}: choose a loss that fits, "
            f'such as loss="sample-weights", loss_kwargs={{"base": "{base}"}} (as a method of teachenv.compare: '
            f'teachenv.experiment.fixed("{base}")), or a teachenv.LossFamily of your own'
        )
    if settings.warm_start and not kinds & {*reads("cross-entropy")}:
        raise ValueError(
            f"warm_start={settings.warm_start} takes steps of cross-entropy, which is for class labels, but "
            f"{targets_are}: leave it at 0"
        )


def checked_action(action: Any, shape: tuple[int, ...], space: gym.spaces.Box) -> np.ndarray:
    """An action, or a batch of them, as an array; what is outside of the box by rounding alone is clipped.

    Args:
        action: what the teacher gave.
        shape: the shape that it must have.
        space: the space of one action, a box from -1 to 1.

    Raises:
        ValueError: wrong shape, NaN, or outside the box by more.
        TypeError: not floating-point numbers.
    """
    array = np.asarray(action)
    if array.dtype.kind != "f":
        raise TypeError(
            f"an action is an array of {space.dtype} numbers, found {array.dtype}; "
            f"convert it with np.asarray(action, dtype=np.{space.dtype})"
        )
    if array.shape != shape:
        raise ValueError(f"an action has shape {shape} here, found {array.shape}; see env.action_space")
    largest = np.abs(array).max(initial=0.0)  # NaN if any coordinate is
    # A wrapper's arithmetic may end a few roundings outside of the box.
    kinds: tuple[Any, ...] = (array.dtype, space.dtype)
    outside = _ROUNDINGS * max(np.finfo(kind).eps for kind in kinds)
    if not largest <= 1.0 + outside:
        if np.isnan(largest):
            raise ValueError("the action contains NaN; look for a diverged teacher")
        raise ValueError(
            f"actions lie in [-1, 1], found a coordinate of size {largest:.6g}; np.clip(action, -1, 1) first"
        )
    if largest > 1.0:
        array = array.clip(-1.0, 1.0)
    return array if array.flags.writeable else array.copy()  # PyTorch warns of arrays that it may not write to


def checked_inputs(inputs: Any, task: Task, dtype: torch.dtype) -> torch.Tensor:
    """Samples that a student shall predict, as a tensor in the form of the task's inputs.

    Args:
        inputs: what a user gave: a tensor, an array or lists of numbers, or such by name.
        task: the task.
        dtype: the student's.

    Raises:
        ValueError: they are no batch of samples of the task's shape, are not finite, or have other columns.
        TypeError: they are no numbers.
    """
    like = task.pool[0]
    if inputs is None or isinstance(inputs, str):
        raise TypeError(f"predict takes an array of samples of task {task.name!r}, found {inputs!r}")
    where = f"samples of task {task.name!r} to predict"
    tensor = inputs_of(inputs, task.packing, where, task.pool_columns)
    if task.packing is not None:
        return in_form_of(like, tensor, dtype, where)
    expected = f"({', '.join(map(str, ('n', *like.shape[1:])))})"
    # A trim makes sequences of other lengths.
    fits = tensor.dim() == like.dim() if task.trim is not None else tensor.shape[1:] == like.shape[1:]
    if not fits or not tensor.dim():
        one = "; put a single sample into a batch, inputs[None]" if tensor.shape == like.shape[1:] else ""
        raise ValueError(
            f"predict takes a batch of samples of shape {expected} of task {task.name!r}, found shape "
            f"{tuple(tensor.shape)}{one}"
        )
    return in_form_of(like, tensor, dtype, where)


def reset_options(options: Any, known: Collection[str]) -> dict[str, Any]:
    """The options of a `reset`, of which unknown ones are errors rather than ignored.

    Raises:
        ValueError: an option that is not known.
    """
    checked = {} if options is None else checks.options("reset's options", options)
    for name in checked:
        if name not in known:
            expected = f"expected {', '.join(map(repr, known))}" if known else "it takes none"
            raise ValueError(f"reset has no option {name!r}: {expected}; seeds are given as reset(seed=...)")
    return checked


def check_snapshot(
    snapshot: Any,
    here: Mapping[str, Any],
    defaults: Mapping[str, str],
    generators: Sequence[np.random.Generator],
) -> None:
    """Refuses a snapshot that another environment made, or that is damaged.

    Args:
        snapshot: what a user hands over.
        here: a snapshot of the environment that shall continue from it.
        defaults: the text of each setting's default, by its name.
        generators: the environment's, one for each student.

    Raises:
        ValueError: the value is not a snapshot, or it is one of another kind of environment, of another number of
            students, of other settings (says which differ), of a version of this package that kept other things, or
            without a part of what it should have.
    """
    if not isinstance(snapshot, Mapping) or "settings" not in snapshot:
        raise ValueError(f"expected what get_state() returns, found {type(snapshot).__name__} without 'settings'")
    if not isinstance(snapshot["settings"], Mapping):
        raise damaged(f"its 'settings' are {checks.shown(snapshot['settings'])}, expected a text for each by its name")
    there, wanted = (_kind(each, here["kind"]) for each in (snapshot, here))
    if there != wanted:
        raise ValueError(f"this is the state of {there}, expected that of {wanted}")
    if unknown := [name for name in snapshot["settings"] if name not in here["settings"]]:
        raise ValueError(
            f"this state has a setting {unknown[0]!r} that is not known here: another version of teachenv made it; use "
            "that version"
        )
    # A setting that was added after the snapshot was saved had its default there.
    saved = {**defaults, **snapshot["settings"]}
    differing = [f"{k}: {saved.get(k)} there, {now} here" for k, now in here["settings"].items() if saved.get(k) != now]
    if differing:
        raise ValueError(
            "this is the state of another environment ("
            + "; ".join(differing)
            + "); make the environment with its settings"
        )
    if missing := [name for name in here if name not in snapshot and name != "kind"]:
        raise ValueError(
            f"this state lacks {missing[0]!r}: another version of teachenv made it; train anew, or use that version"
        )
    _check_random(snapshot["random"], generators, single="num_envs" not in here)


def _kind(snapshot: Mapping[str, Any], kind: str) -> str:
    """Says of what a snapshot is; those of earlier versions do not tell, and count as of this kind."""
    found, count = snapshot.get("kind", kind), snapshot.get("num_envs")
    return f"a {found}" if count is None else f"a {found} of {count} students"


def _check_random(random: Any, generators: Sequence[np.random.Generator], single: bool) -> None:
    states = [random] if single else random
    if not isinstance(states, list | tuple) or len(states) != len(generators):
        raise damaged(f"its 'random' is {checks.shown(random)}, expected the states of {len(generators)} generators")
    for state, generator in zip(states, generators, strict=True):
        try:
            type(generator.bit_generator)(0).state = state
        except Exception as error:  # NumPy raises what it meets
            raise damaged(f"its 'random' holds {checks.shown(state)}, which is no state of a generator") from error


def damaged(what: str) -> ValueError:
    """The error for a snapshot that no environment has made as it is."""
    return ValueError(f"this state is damaged: {what}; nothing was changed")
