"""How a network is called with a minibatch, and which part of what it returns are its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from teachenv import checks

Output = str | int | Callable[[Any], torch.Tensor]
"""What of a network's answer its outputs are: a name, a place, or a function of the answer."""


class NoOutputs(ValueError):
    """A network whose answer does not have the part that its outputs are."""


@dataclass(frozen=True)
class Call:
    """A call of a network with a minibatch of inputs.

    Attributes:
        output: which part of the answer the outputs are, where it is no tensor: the key or attribute of a name, the
            part at a place; or a function of the answer, which is asked of a tensor, too. None: its `logits`.
        unpack: takes inputs apart, which are the network's keyword arguments then, as `teachenv.tasks.packing` does;
            None: the inputs are its one argument.
        copies: whether the network gets a copy of its inputs, since it writes into them.
    """

    output: Output | None = None
    unpack: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] | None = None
    copies: bool = False

    def __call__(self, module: nn.Module, inputs: torch.Tensor, name: str, training: bool) -> torch.Tensor:
        """The outputs.

        Args:
            module: the network, in its mode.
            inputs: (batch, ...).
            name: the network's name, for errors.
            training: the mode, for errors.

        Raises:
            NoOutputs: the answer has no such part, or it is no tensor.
        """
        return self._chosen(self.answer(module, inputs), name, training)

    def answer(self, module: nn.Module, inputs: torch.Tensor) -> Any:
        """What the network returns, whatever it is."""
        inputs = inputs.clone() if self.copies else inputs
        return module(inputs) if self.unpack is None else module(**self.unpack(inputs))

    def described(self, inputs: torch.Tensor) -> str:
        """What a network is called with, for messages."""
        if self.unpack is None:
            return f"inputs of shape {tuple(inputs.shape)} and type {inputs.dtype}"
        return "inputs " + ", ".join(f"{n}={tuple(t.shape)} {t.dtype}" for n, t in self.unpack(inputs).items())

    def _chosen(self, answer: Any, name: str, training: bool) -> torch.Tensor:
        output = self.output
        if callable(output):
            chosen: Any = output(answer)
        elif isinstance(answer, torch.Tensor):
            return answer
        else:
            chosen = _part(answer, "logits" if output is None else output)
        if isinstance(chosen, torch.Tensor):
            return chosen
        mode = "training" if training else "evaluation"
        if callable(output):
            raise NoOutputs(
                f"output of the student {name} makes {type(chosen).__name__} of what it returns in {mode} mode, "
                f"{_described(answer)}; expected a tensor of outputs, (batch, outputs)"
            )
        wanted = "a tensor of logits, or something with a tensor as .logits or ['logits']"
        if output is not None:
            wanted = f"a tensor as its part {output!r}"
        raise NoOutputs(
            f"the student {name} returns {_described(answer)} in {mode} mode, expected {wanted}; say which part its "
            "outputs are, as output=0, output='name' or output=lambda answer: ..."
        )


def checked_output(name: str, value: object) -> object:
    """An `Output`.

    Raises:
        ValueError: the value is no whole number, no text and no function.
    """
    if (callable(value) and not isinstance(value, nn.Module | type)) or (isinstance(value, str) and value):
        return value
    if not isinstance(value, str) and not callable(value):
        try:
            return checks.integer(name, value)
        except ValueError:
            pass
    raise ValueError(
        f"{name} must be a name, a place or a function of what a student returns, found {checks.shown(value)}"
    )


def as_floats(inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Inputs as a network gets them: pixels, uint8 from 0 to 255, as floating-point numbers from 0 to 1."""
    return inputs.to(dtype).div_(255) if inputs.dtype == torch.uint8 else inputs


def _part(answer: Any, key: str | int) -> Any:
    if isinstance(key, int):
        if isinstance(answer, Mapping):
            return list(answer.values())[key] if -len(answer) <= key < len(answer) else None
        try:
            return answer[key]
        except (TypeError, LookupError):
            return None
    return answer.get(key) if isinstance(answer, Mapping) else getattr(answer, key, None)


def _described(answer: Any) -> str:
    content = ""
    if isinstance(answer, Mapping):
        content = f" with keys {', '.join(map(repr, answer))}"
    elif isinstance(answer, tuple | list):
        content = f" of {', '.join(type(part).__name__ for part in answer)}"
    return f"{type(answer).__name__}{content}"
