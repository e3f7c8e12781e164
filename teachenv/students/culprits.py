"""Finds, for error messages, which part of a network keeps it from being a function of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from teachenv.randomness import generator_states
from teachenv.students.attributes import kept_parameter, module_at


def place_of_draws(module: nn.Module, generator: str, device: torch.device, evaluate: Callable[[], None]) -> str:
    """Names the innermost module in which a generator moves in an evaluation pass.

    Args:
        module: the network.
        generator: the name of the generator, as `generator_states` has it.
        device: where the network lives.
        evaluate: runs the pass.
    """
    innermost: list[str] = []
    stack: list[bytes] = []

    def enter(_module: nn.Module, _inputs: Any) -> None:
        stack.append(generator_states(device)[generator])

    def leave(child: nn.Module, _inputs: Any, _outputs: Any) -> None:
        if stack.pop() != generator_states(device)[generator] and not innermost:
            innermost.append(next(name for name, m in module.named_modules() if m is child))

    handles = [
        h for m in module.modules() for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))
    ]
    evaluate()
    for handle in handles:
        handle.remove()
    return f" in {module_at(module, innermost[0])}" if innermost and innermost[0] else ""


def likely_cause(module: nn.Module, moved: Mapping[tuple[str, str], tuple[str, str]], label: str) -> str:
    """Why a network is no function of its tensors, and what to do.

    Args:
        module: the network.
        moved: attributes that changed in a training run, (path, name) to their values before and after.
        label: what differed.
    """
    if stale := kept_parameter(module):
        name, where = stale
        return f"its parameter {name!r} is kept in {where} as well, where it cannot be exchanged; leave that out"
    if moved:
        (path, key), (before, after) = next(iter(moved.items()))
        others = f" (and {', '.join(repr(k) for _, k in list(moved)[1:4])})" if len(moved) > 1 else ""
        if "Generator" in before or "RandomState" in before or before.startswith("random"):
            advice = "draw from the global generator, torch.rand, which is seeded for each step"
        else:
            advice = (
                f"make it a buffer, self.register_buffer({key!r}, ...), and change it by tensor operations: "
                "buffers are part of a student's state"
            )
        values = f" ({before}, then {after})" if len(before + after) < 60 else ""
        return f"{module_at(module, path)} changes its attribute {key!r}{others} in a pass{values}; {advice}"
    if label.startswith("its gradients"):
        return (
            "gradient checkpointing, a custom autograd function or a module that keeps weights elsewhere may be "
            "the reason; leave checkpointing out (meta.hypergradient has its own)"
        )
    return (
        "it keeps something outside its tensors (in a closure, a global variable, another object, a generator of "
        "its own), or its train() and eval() change weights; keep state in buffers (self.register_buffer)"
    )
