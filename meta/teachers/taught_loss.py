"""A learned loss outside the environments: a module for any PyTorch training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from meta.teachers.policies import Attention, perceptron
from teachenv import checkpoints, checks
from teachenv.errors import unknown_name
from teachenv.losses import LOSSES, LossFamily, make_loss
from teachenv.precision import in_full_precision, without_autocast
from teachenv.problem import Problem
from teachenv.problem_checks import check_loss_alone
from teachenv.students import Prediction
from teachenv.tasks.measures import ClassificationMeasure
from teachenv.teacher import HasActor, lacking

_FILE, _KIND, _FORMAT = "taught_loss.zip", "a taught loss", 1
_OWN = "own"
# By the kind that a file names: the activations of the hidden layers. PPO's are tanh.
_PERCEPTRONS: dict[str, type[nn.Module]] = {"perceptron": nn.ReLU, "tanh-perceptron": nn.Tanh}


class TaughtLoss(nn.Module):
    """A trained teacher together with its loss family, as the loss of a plain training loop.

    Tell it from time to time how the training stands; it then is the loss that the teacher chooses there:

        loss = TaughtLoss.load("folder")
        loss.tell(progress=0.0, train_accuracy=..., dev_accuracy=..., dev_precision=[...])
        loss(logits, targets).backward()

    The four measurements are the environment's observation: student steps over all steps; accuracy on the minibatches
    since the last `tell`, before each update (at the start: on the first one); accuracy and precision per class on
    dev, which `measure` takes from the dev set's logits. The environment tells its teacher every `steps_per_action`
    steps, which `config` has.

    The teacher's own parameters are frozen.

    As in `torch.nn.CrossEntropyLoss`, targets of `ignore_index` count for nothing, and logits may have further
    dimensions behind the classes, (batch, C, ...) with targets (batch, ...): each place is then a classification. A
    loss that is a mean over samples has no value for each of them; `"sum"` is the mean times how many count.

    Args:
        actor: the teacher's network, from observation to action.
        config: what `save` writes as JSON: `loss`, `loss_kwargs`, `outputs`, `actor` and `steps_per_action`, and for
            the reader `task`, `dataset`, `student` and `learning_rate` of the training that it was taught in.
        family: the loss family, if it is one of your own; None: the one that `config` names.
        ignore_index: targets that count for nothing.
        reduction: `"mean"` or `"sum"` over the samples that count.

    Raises:
        ValueError: another reduction, or an index that is no whole number.
    """

    def __init__(
        self,
        actor: nn.Module,
        config: dict[str, Any],
        *,
        family: LossFamily | None = None,
        ignore_index: int = -100,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        """Builds the loss family, and freezes the actor."""
        super().__init__()
        self.config = config
        self.family = make_loss(config["loss"], config["loss_kwargs"]) if family is None else family
        self.ignore_index = checks.integer("ignore_index", ignore_index)
        self.reduction = checks.choice("reduction", reduction, ("mean", "sum"))
        self.actor = actor.requires_grad_(False)
        self._action: torch.Tensor | None = None

    @classmethod
    def of(cls, teacher: HasActor, **options: Any) -> TaughtLoss:
        """Makes the loss that a teacher has learned: one from `meta` or `agents`, or another that keeps `HasActor`.

        Of a loss family of your own, which has no name in a file, `load` is given the family.

        Args:
            teacher: the teacher.
            **options: `ignore_index` and `reduction`.

        Raises:
            TypeError: the teacher lacks something of `HasActor`.
            ValueError: no environment; a task that is not classification; `"sample-weights"`, whose actions belong to
                places in a minibatch; or another kind of policy.
        """
        if names := lacking(teacher, HasActor):
            raise TypeError(
                f"found a {type(teacher).__name__} without {' and '.join(names)}, expected a teacher of meta or "
                "agents, or one that has what teachenv.teacher.HasActor says"
            )
        if teacher.env is None:
            raise ValueError("the teacher has no environment, which knows its loss family: load it with env=...")
        problem: Problem = teacher.env.get_attr("problem")[0]
        settings = problem.settings
        check_loss_alone(problem, cls.__name__)
        loss = problem.dynamics.loss
        if _belongs(loss):
            known = [name for name, each in LOSSES.items() if not _belongs(each)]
            raise ValueError(
                f"found loss={settings.loss!r}, expected one of {known}, or a family of your own: its actions must not "
                "belong to single samples or domains, nor the loss to two networks"
            )
        if not problem.classifies:
            raise ValueError(f"task {problem.task.name!r} is not classification; TaughtLoss supports nothing else")
        actor, named = teacher.actor_network, isinstance(settings.loss, str)
        config = {
            "format": _FORMAT,
            "loss": settings.loss if named else _OWN,
            "loss_kwargs": dict(settings.loss_kwargs) if named else {},
            "outputs": problem.task.num_outputs,
            "actor": _config_of(actor),
            "steps_per_action": settings.steps_per_action,
            "task": problem.task.name,
            "dataset": problem.task.dataset,
            "student": settings.student if isinstance(settings.student, str) else "own",
            "learning_rate": settings.learning_rate,
        }
        family = None if named else loss
        frozen_actor = _actor_of(config, family)
        frozen_actor.load_state_dict({name: t.detach().clone() for name, t in actor.state_dict().items()})
        return cls(frozen_actor.to(next(actor.parameters()).dtype), config, family=family, **options)

    def save(self, path: str | Path) -> None:
        """Writes the folder with its one file, `taught_loss.zip`: JSON and safetensors; at once or not at all.

        Raises:
            ValueError: weights that are not finite.
            OSError: it could not be written.
        """
        weights = self.actor.state_dict()
        _check_finite(weights, "this loss", "its teacher has diverged: teach again with a smaller learning rate")
        checkpoints.save(Path(path) / _FILE, {"config": self.config, "weights": dict(weights)}, _KIND)

    @classmethod
    def load(cls, path: str | Path, *, family: LossFamily | None = None, **options: Any) -> TaughtLoss:
        """Reads what `save` wrote, on the CPU.

        Args:
            path: the folder.
            family: the loss family, if it is one of your own.
            **options: `ignore_index` and `reduction`.

        Raises:
            FileNotFoundError: the folder or its file is not there.
            NotADirectoryError: `path` is a file.
            ValueError: the file is damaged, of something else or of a newer version, its weights are not finite, or its
                family is one of your own and was not given, or none and was given.
        """
        file = Path(path) / _FILE
        if Path(path).is_file():
            raise NotADirectoryError(f"{path} is a file, expected the folder that TaughtLoss.save wrote")
        if not file.exists():
            raise FileNotFoundError(f"{file} is not there; expected a folder that TaughtLoss.save wrote")
        saved = checkpoints.load(file, _KIND)
        try:
            config, weights = saved["config"], saved["weights"]
            if config["format"] != _FORMAT:
                raise ValueError(f"its format is {config['format']}, and this version reads {_FORMAT}")
            if (config["loss"] == _OWN) != (family is not None):
                other = "your own, which load(path, family=...) is given"
                raise ValueError(f"its loss is {other if family is None else config['loss']}, found family={family}")
            actor = _actor_of(config, family).to(next(iter(weights.values())).dtype)
            actor.load_state_dict(weights)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RuntimeError) as error:
            reason = " ".join(str(error).split()) or "it has no weights"
            raise ValueError(f"{file} is no taught loss that can be read: {reason}; save it again") from error
        _check_finite(weights, str(file), "save the loss of a teacher that has not diverged")
        return cls(actor, config, family=family, **options)

    def tell(
        self, *, progress: float, train_accuracy: float, dev_accuracy: float, dev_precision: Sequence[float]
    ) -> None:
        """Says how the training stands; the loss is the one that the teacher chooses there, until told otherwise.

        Args:
            progress: the student steps taken, divided by all that will be taken, in [0, 1].
            train_accuracy: the accuracy on the minibatches since the last `tell`, each before its update, in [0, 1].
            dev_accuracy: the accuracy on dev, in [0, 1].
            dev_precision: the precision on dev for each class, C numbers in [0, 1].

        Raises:
            ValueError: a measurement that is not a fraction, or not one precision a class.
        """
        measurements = np.asarray([progress, train_accuracy, dev_accuracy, *dev_precision], dtype=np.float64)
        classes = self.config["outputs"]
        if len(measurements) != 3 + classes:
            raise ValueError(f"found {len(measurements) - 3} precisions, expected one for each of {classes} classes")
        if not ((measurements >= 0) & (measurements <= 1)).all():
            raise ValueError(
                f"progress, accuracies and precisions are fractions in [0, 1], found {measurements.tolist()}"
            )
        parameter = next(self.actor.parameters())
        observation = torch.as_tensor(measurements, dtype=parameter.dtype, device=parameter.device).unsqueeze(0)
        with torch.no_grad(), without_autocast(observation):
            self._action = self.actor(observation).squeeze(0).clamp(-1.0, 1.0)

    def measure(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
        """Measures `dev_accuracy` and `dev_precision` for `tell`, on the dev set.

        Args:
            outputs: logits, (n, C) or (n, C, ...).
            targets: classes, (n,) or (n, ...); those of `ignore_index` count for nothing.

        Raises:
            TypeError: logits or targets that are no tensors, or targets of another type than int64.
            ValueError: logits or targets are of another shape, targets are no classes, or none counts.
        """
        logits, labels, _ = self._counted(outputs, targets)
        if not len(labels):
            raise ValueError(f"found targets of ignore_index={self.ignore_index} alone, expected some to measure by")
        with torch.no_grad():
            accuracy, precision = ClassificationMeasure(self.config["outputs"]).assess(logits, labels)
        return {"dev_accuracy": float(accuracy), "dev_precision": precision.tolist()}

    @in_full_precision
    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        features: torch.Tensor | None = None,
        head_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes the loss of a minibatch, a scalar, in float32 or float64, whatever autocast says.

        Args:
            outputs: the network's logits, (batch, C) or (batch, C, ...).
            targets: the samples' classes, (batch,) or (batch, ...); those of `ignore_index` count for nothing.
            features: the inputs of the network's last linear layer; only for a mixture with large-margin softmax.
            head_weight: the weight of that layer; only for a mixture with large-margin softmax.

        Raises:
            RuntimeError: nothing was told yet.
            TypeError: logits or targets that are no tensors, or targets of another type than int64.
            ValueError: features and head weight are missing, logits or targets are of another shape, or targets are no
                classes.
        """
        if self._action is None:
            raise RuntimeError("this loss depends on how the training stands: call tell(progress=0.0, ...) first")
        logits, labels, counts = self._counted(outputs, targets)
        if self.family.needs_head and (features is None or head_weight is None):
            raise ValueError("this mixture has large-margin softmax in it: pass features and head_weight, too")
        action = self._action.to(device=outputs.device, dtype=outputs.dtype)
        features = features if features is None or bool(counts.all()) else features[counts]
        if not len(labels):
            return outputs.flatten()[:0].sum()  # 0, and a gradient of 0: nothing counts
        loss = self.family(action, Prediction(logits, features, head_weight), labels)
        return loss * len(labels) if self.reduction == "sum" else loss

    def _counted(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logits of the places that count, (m, C); their classes, (m,); which places these are, (n · ...,))."""
        classes = self.config["outputs"]
        for name, value in (("logits", outputs), ("targets", targets)):
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"found {name} of type {type(value).__name__}, expected a torch.Tensor")
        if outputs.dim() < 2 or outputs.shape[1] != classes:
            number = outputs.shape[1] if outputs.dim() > 1 else 1
            raise ValueError(f"found logits of {number} classes, expected {classes}: (batch, {classes}, ...)")
        if targets.shape != (outputs.shape[0], *outputs.shape[2:]):
            raise ValueError(
                f"found targets of shape {tuple(targets.shape)} for logits of shape {tuple(outputs.shape)}, expected "
                f"{(outputs.shape[0], *outputs.shape[2:])}: a class for each place"
            )
        if targets.dtype != torch.int64:
            raise TypeError(f"found targets of {targets.dtype}, expected torch.int64: targets.long()")
        logits, labels = outputs.movedim(1, -1).reshape(-1, classes), targets.reshape(-1)
        counts = labels != self.ignore_index
        wrong = counts & ((labels < 0) | (labels >= classes))
        # Both in one read, for which a GPU is waited for once.
        some_ignored, some_wrong = torch.stack([~counts.all(), wrong.any()]).tolist()
        if some_wrong:
            counted = labels[counts]
            raise ValueError(
                f"found targets from {int(counted.min())} to {int(counted.max())}, expected 0 to {classes - 1}, or "
                f"ignore_index={self.ignore_index} for those that count for nothing"
            )
        return (logits[counts], labels[counts], counts) if some_ignored else (logits, labels, counts)


def _check_finite(weights: Mapping[str, torch.Tensor], what: str, remedy: str) -> None:
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{what} has weights that are not finite ({', '.join(broken)}); {remedy}")


def _belongs(loss: LossFamily | type[LossFamily]) -> bool:
    """Whether actions of a family belong to samples or domains, or the loss to two networks."""
    return loss.of_places or loss.of_pool or loss.of_domains or loss.of_pairs


def _config_of(actor: nn.Module) -> dict[str, Any]:
    """Returns the kind and sizes of an actor as JSON values, from which `_actor_of` makes another one."""
    if isinstance(actor, Attention):
        return {"kind": "attention", "keys": actor.keys.in_features, "static": actor.static}
    linear = [m for m in actor.modules() if isinstance(m, nn.Linear)]
    sizes = [m.out_features for m in linear]
    if linear:
        for kind, activation in _PERCEPTRONS.items():
            network = partial(perceptron, linear[0].in_features, sizes[-1], sizes[:-1], activation_fn=activation)
            # The networks of SAC and PPO end before their tanh.
            if str(actor) in (str(network(squash=True)), str(network(squash=False))):
                return {"kind": kind, "net_arch": sizes[:-1]}
    raise ValueError(
        f"found a policy with the network {type(actor).__name__}, expected that of an AttentionPolicy or MlpPolicy"
    )


def _actor_of(config: dict[str, Any], family: LossFamily | None) -> nn.Module:
    """Makes a new actor of the kind and sizes in a config, for its loss or for a family of a user's own."""
    classes, about = config["outputs"], config["actor"]
    family = make_loss(config["loss"], config["loss_kwargs"]) if family is None else family
    states, actions = 3 + classes, family.action_size(classes, 1)
    if about["kind"] == "attention":
        return Attention(states, actions, about["keys"], static=about["static"])
    if about["kind"] in _PERCEPTRONS:
        return perceptron(states, actions, about["net_arch"], activation_fn=_PERCEPTRONS[about["kind"]])
    raise unknown_name("actor", about["kind"], ("attention", *_PERCEPTRONS))
