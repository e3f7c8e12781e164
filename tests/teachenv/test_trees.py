"""Nested tensors: mapped, stacked, taken apart, and replaced row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from teachenv.trees import ARRAYS, at, mapped, places_of, put, stack, tensors_of, unstacked


class Pair(NamedTuple):
    left: Any
    right: Any


def tree(value: float) -> Pair:
    return Pair({"a": torch.full((2,), value)}, [torch.tensor(value), "name"])


def test_what_is_stacked_comes_apart_again() -> None:
    together = stack([tree(1.0), tree(2.0)])
    assert isinstance(together, Pair)
    assert together.left["a"].tolist() == [[1, 1], [2, 2]]
    assert together.right[1] == "name"
    for one, expected in zip(unstacked(together), (1.0, 2.0), strict=True):
        assert one.left["a"].tolist() == [expected] * 2
        assert one.right == [torch.tensor(expected), "name"]


def test_places_are_what_python_calls_them() -> None:
    state = {"own": tree(1.0), "more": [torch.zeros(1), (np.ones(2), "text")]}
    places = places_of(state, "state", of=ARRAYS)
    assert all(eval(place, {"state": state}) is found for place, found in places.items())
    assert [*places][-2:] == ["state['more'][0]", "state['more'][1][0]"]
    for found, wanted in zip(places_of(state, "state").values(), tensors_of(state), strict=True):
        assert found is wanted


def test_rows_are_taken_and_replaced_in_tensors_and_arrays() -> None:
    old = {"tensor": torch.zeros(3, 2), "array": np.zeros(3), "same": 4}
    new = {"tensor": torch.ones(2, 2), "array": np.ones(2), "same": 4}
    changed = put(old, np.array([0, 2]), new)
    assert changed["tensor"][:, 0].tolist() == changed["array"].tolist() == [1, 0, 1]
    assert not old["array"].any()
    assert not old["tensor"].any()
    assert at(changed, [2, 1])["array"].tolist() == [1, 0]


@pytest.mark.parametrize("other", [5, None, "name", np.array([4, 4])])
def test_values_that_differ_are_refused_rather_than_dropped(other: Any) -> None:
    for both in (lambda: stack([Pair(4, other), Pair(4, 4)]), lambda: put({"a": 4}, np.array([0]), {"a": other})):
        with pytest.raises(TypeError, match="in one place, expected tensors or equal values"):
            both()
    with pytest.raises(ValueError, match="shorter"):
        mapped(torch.add, [torch.ones(1)] * 2, [torch.ones(1)])
