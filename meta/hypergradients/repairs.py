"""Changes of an environment, one thing each, under which the gradient of its training runs may be of use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from teachenv.problem import Problem
from teachenv.students.factories import StudentFactory

_KINKED = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.PReLU, nn.Hardtanh, nn.Hardswish, nn.Threshold)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def repairs_of(problem: Problem) -> dict[str, Mapping[str, Any]]:
    """Returns what may be changed of a problem's settings, by a name for it: those of the changes that it has.

    Args:
        problem: the problem of the environment, `env.unwrapped.problem`.
    """
    settings = problem.settings
    changes: dict[str, Mapping[str, Any]] = {
        "a quarter of the learning rate": {"learning_rate": settings.learning_rate / 4}
    }
    if settings.lr_schedule == "constant":
        changes["a linear schedule"] = {"lr_schedule": "linear"}
    if problem.actions >= 4:
        changes["a quarter of the steps"] = {"horizon": problem.actions // 4 * settings.steps_per_action}
    elif settings.steps_per_action >= 4:
        steps = settings.steps_per_action // 4
        changes["a quarter of the steps"] = {"steps_per_action": steps, "horizon": problem.actions * steps}
    if settings.objective == "accuracy" and problem.dynamics.measure.score_name == "accuracy":
        changes["five times the temperature"] = {"objective_temperature": 5 * settings.objective_temperature}
    if settings.loss == "dynamic-network" and settings.loss_kwargs.get("activation", "leaky-relu") == "leaky-relu":
        changes["a smooth loss network"] = {"loss_kwargs": {**settings.loss_kwargs, "activation": "leaky-swish"}}
    student = problem.dynamics.student
    defaults: dict[str, Any] = {"student_kwargs": {}}
    if any(isinstance(module, _KINKED) for module in student.module.modules()):
        changes["smooth activations"] = defaults | {
            "student": _exchanged(student.factory, _KINKED, lambda module: nn.SiLU())
        }
    if any(isinstance(module, _BATCH_NORMS) for module in student.module.modules()):
        changes["group norm for batch norm"] = defaults | {
            "student": _exchanged(student.factory, _BATCH_NORMS, _group_norm)
        }
    return changes


def _exchanged(
    factory: StudentFactory, kinds: tuple[type[nn.Module], ...], make: Callable[[Any], nn.Module]
) -> StudentFactory:
    """A factory of the same network with some of its modules exchanged."""

    def exchanged() -> nn.Module:
        module = factory()
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, kinds):
                    setattr(parent, name, make(child))
        return module

    return exchanged


def _group_norm(module: Any) -> nn.Module:
    return nn.GroupNorm(1, module.num_features, affine=module.affine)
