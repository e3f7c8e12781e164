"""Tensors that stop gradients: what a network or a loss detaches, copies, freezes, or makes of other tensors' numbers.

Within a pass that is differentiated they have a graph, which derivatives of the pass's result go through, and
gradients that the pass takes itself do not; see `teachenv.students.stopped_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

from teachenv.students.stopped_gradients import InnerGradients
from teachenv.students.transforms import is_followed
from teachenv.trees import mapped, tensors_of

DATA: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_MAKERS: dict[Any, str] = {
    torch.tensor: "data",
    torch.as_tensor: "data",
    torch.asarray: "obj",
    torch.Tensor.new_tensor: "data",
}
"""Functions that make a new tensor and read tensors among its data as numbers, and what they call these data."""


class StoppedTensors:
    """Stands for PyTorch's ways to make tensors that stop gradients, within a pass that is differentiated.

    Args:
        let_through: gives a tensor, or tensors, the same values, constant to the pass's own gradient.
        inner_gradients: those of the pass.
        buffers: identities of tensors that the network may update in place.

    Attributes:
        replacements: what is called in the place of each of PyTorch's functions.
    """

    def __init__(
        self, let_through: Callable[[Any], Any], inner_gradients: InnerGradients, buffers: Collection[int]
    ) -> None:
        self._let_through, self._inner, self._buffers = let_through, inner_gradients, buffers
        self._of_leaves: list[torch.Tensor] = []  # what was detached of leaves that the pass has made
        self._data_of: list[tuple[torch.Tensor, torch.Tensor]] = []  # (data, the tensor that they are of)
        self.replacements: dict[Any, Callable[..., Any]] = {
            torch.Tensor.detach: self.detach,
            torch.detach: self.detach,
            torch.Tensor.detach_: self.detach_in_place,
            torch.detach_: self.detach_in_place,
            DATA: self.data,
            _SET_DATA: self.set_data,
            torch.Tensor.zero_: self.zero,
            torch.Tensor.__deepcopy__: self.copied,
            **{maker: self._made_by(maker, data) for maker, data in _MAKERS.items()},
        }

    @property
    def watches(self) -> bool:
        """Whether there are tensors in whose place others may have to be arguments."""
        return bool(self._inner.frozen or self._of_leaves or self._data_of)

    def arguments(self, arguments: Any, changes: bool) -> Any:
        """The arguments of a call, (positional, by name), with frozen tensors that let derivatives through.

        Args:
            arguments: as they are.
            changes: whether the call changes its first argument in place.

        Raises:
            ValueError: what it changes is a name for a leaf that asks for its gradient.
        """
        if changes and arguments[0] and (self._of_leaves or self._data_of):
            (first, *rest), by_name = arguments
            arguments = (self._changed(first), *rest), by_name
        return mapped(self._of_frozen, arguments) if self._inner.frozen else arguments

    def clear(self) -> None:
        """Forgets all tensors."""
        self._of_leaves.clear()
        self._data_of.clear()

    def detach(self, input: torch.Tensor) -> torch.Tensor:
        """Stands for `torch.detach`."""
        if id(input) in self._buffers or self._inner.keeps(input):
            return input  # which may be updated in place
        if not (input.is_floating_point() or input.is_complex()):
            return input.detach()
        if not is_followed(input):
            return input.view_as(input)  # and not detached: what is written to it later may have a graph
        detached: torch.Tensor = self._let_through(input)
        if self._inner.is_leaf_of_pass(input):
            self._of_leaves.append(detached)
        return detached

    def detach_in_place(self, input: torch.Tensor) -> torch.Tensor:
        """Stands for `Tensor.detach_`.

        Raises:
            ValueError: the tensor has a graph.
        """
        if is_followed(input):
            raise ValueError(
                "found detach_() within a step that is differentiated, which no derivative follows; write "
                "x = x.detach() in the place of x.detach_()"
            )
        return input.detach_()

    def data(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stands for reading `Tensor.data`: a name for the same memory, by which the tensor may be changed."""
        constant = not is_followed(tensor)
        data = self.detach(tensor)
        if constant or any(tensor is whole for _, whole in self._data_of):
            self._data_of.append((data, tensor))
        return data

    def set_data(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Stands for setting `Tensor.data`.

        Raises:
            ValueError: the value depends on the parameters.
        """
        if value.requires_grad and id(tensor) not in self._buffers:
            raise ValueError(
                "found .data of a tensor set to something that depends on the parameters, which no derivative follows; "
                "make a new tensor of it: x = value.detach().requires_grad_()"
            )
        tensor.data = value

    def zero(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stands for `Tensor.zero_`."""
        zeros = self._inner.zero_kept(tensor)
        return tensor.zero_() if zeros is None else zeros

    def copied(self, tensor: torch.Tensor, memo: dict[int, Any]) -> Any:
        """Stands for `copy.deepcopy`, which takes leaves alone and stops gradients."""
        memo[id(tensor)] = self._let_through(tensor) if is_followed(tensor) else tensor.clone()
        return memo[id(tensor)]

    def _made_by(self, maker: Callable[..., Any], data_name: str) -> Callable[..., Any]:
        place = int(maker is torch.Tensor.new_tensor)

        def made(*args: Any, **options: Any) -> Any:
            data = args[place] if len(args) > place else options.get(data_name)
            # A tensor of a tensor is that tensor where nothing asks for another one.
            shares = maker is torch.as_tensor or (maker is torch.asarray and options.get("requires_grad") is None)
            if (shares and isinstance(data, torch.Tensor)) or not any(map(is_followed, tensors_of(data))):
                return maker(*args, **options)
            asks, stopped = options.pop("requires_grad", False), mapped(torch.Tensor.detach, data)
            if len(args) > place:
                args = (*args[:place], stopped, *args[place + 1 :])
            else:
                options[data_name] = stopped
            plain = maker(*args, **options)
            result = self._let_through(_stacked(data)).to(plain).reshape(plain.shape)
            return self._inner.set_requires_grad(result) if asks else result

        return made

    def _changed(self, tensor: Any) -> Any:
        """What is changed in the place of a tensor: where it is another one's data, that one."""
        if any(tensor is each for each in self._of_leaves):
            raise ValueError(
                "found .data or detach() of a tensor with requires_grad=True changed in place, which no derivative "
                "follows; make a new tensor in its place: x = (x + step).detach().requires_grad_()"
            )
        return next((whole for data, whole in self._data_of if data is tensor), tensor)

    def _of_frozen(self, tensor: torch.Tensor) -> torch.Tensor:
        frozen = any(tensor is each for each in self._inner.frozen)
        result: torch.Tensor = self._let_through(tensor) if frozen else tensor
        return result


def _stacked(data: Any) -> torch.Tensor:
    """A tensor of nested lists of tensors and numbers, with their graphs."""
    if isinstance(data, list | tuple):
        return torch.stack([_stacked(each) for each in data])
    return data if isinstance(data, torch.Tensor) else torch.tensor(data)
