"""The plain form of what Stable-Baselines3's models consist of: codecs for `teachenv.checkpoints`.

Spaces, schedules, action noise and classes of SB3 and torch have a plain form, and so has each dataclass that was
`declare`d. What is left (a lambda, a policy class of your own) is pickled, and read with trust alone.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
import sys
from collections import deque
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common import noise, utils
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from teachenv.checkpoints import Codec, Refused
from teachenv.spaces import SampleBox

Declared = TypeVar("Declared", bound=type)

_OBJECTS = {
    name: getattr(module, name)
    for module, names in (
        (utils, ("FloatSchedule", "LinearSchedule", "ConstantSchedule")),
        (noise, ("NormalActionNoise", "OrnsteinUhlenbeckActionNoise", "VectorizedActionNoise")),
        (sys.modules[RunningMeanStd.__module__], ("RunningMeanStd",)),
    )
    for name in names
    if hasattr(module, name)
}
_PACKAGES = ("torch.nn", "torch.optim", "stable_baselines3", "meta", "agents")
_BASES = (torch.nn.Module, torch.optim.Optimizer, BaseModel, BaseBuffer, noise.ActionNoise)
_DTYPES = tuple(name for name in ("float16", "bfloat16", "float32", "float64", "int64") if hasattr(torch, name))
_SPACES: dict[type, tuple[Callable[[Any], list[Any]], Callable[..., gym.Space[Any]]]] = {
    gym.spaces.Box: (lambda s: [s.low, s.high, s.dtype], lambda low, high, t: gym.spaces.Box(low, high, dtype=t.type)),
    SampleBox: (
        lambda s: [s.low, s.high, s.dtype, list(s.sample_fields), s.samples],
        lambda low, high, t, fields, samples: SampleBox(low, high, None, t.type, sample_fields=fields, samples=samples),
    ),
    gym.spaces.Discrete: (lambda s: [int(s.n), int(s.start)], lambda n, start: gym.spaces.Discrete(n, start=start)),
    gym.spaces.MultiDiscrete: (
        lambda s: [s.nvec, s.dtype, s.start],
        lambda nvec, dtype, start: gym.spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start),
    ),
    gym.spaces.MultiBinary: (lambda s: [np.array(s.n).tolist()], gym.spaces.MultiBinary),
    gym.spaces.Tuple: (lambda s: [list(s.spaces)], gym.spaces.Tuple),
    gym.spaces.Dict: (lambda s: [[[name, part] for name, part in s.spaces.items()]], gym.spaces.Dict),
}
_declared: dict[str, type] = {}


def declare(kind: Declared) -> Declared:
    """Says that objects of a dataclass or named tuple are plain values: files hold their fields, not a pickle.

    For schedules and options of your own; where a file is loaded the class must be declared, too. Usable as a
    decorator. The class is made of fields that anybody may have written: its constructor must run nothing of them.

    Raises:
        TypeError: the class is neither a dataclass nor a named tuple.

    Example:
        >>> from dataclasses import dataclass
        >>> from meta.saving import declare
        >>> @declare
        ... @dataclass(frozen=True)
        ... class Decaying:
        ...     rate: float
        ...     def __call__(self, remaining):
        ...         return self.rate * remaining
    """
    if not (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        raise TypeError(f"{kind.__name__} is neither a dataclass nor a named tuple: make it one of them")
    _declared[kind.__name__] = kind
    return kind


declare(TrainFreq)


def codecs(trust: bool = False) -> list[Codec | type]:
    """Returns the codecs by which files hold what models consist of.

    Args:
        trust: True: pickled objects are read, too, which can run any code. False: they are refused.
    """
    return [
        *_declared.values(),
        Codec("space", lambda value: type(value) in _SPACES, _packed_space, _unpacked_space),
        Codec("object", lambda value: type(value) in _OBJECTS.values(), _packed_object, _unpacked_object),
        Codec("schedule", _is_schedule, _packed_schedule, utils.get_schedule_fn),
        Codec("class", _is_known, lambda kind: f"{kind.__module__}:{kind.__qualname__}", _unpacked_class),
        Codec("numpy type", _is_numpy_type, lambda kind: [isinstance(kind, type), np.dtype(kind).str], _numpy_type),
        Codec("torch type", lambda value: isinstance(value, torch.dtype), str, _torch_type),
        Codec("device", lambda value: isinstance(value, torch.device), str, torch.device),
        Codec("unit", lambda value: isinstance(value, TrainFrequencyUnit), lambda unit: unit.value, TrainFrequencyUnit),
        Codec("queue", lambda v: type(v) is deque, lambda v: [list(v), v.maxlen], lambda v: deque(v[0], maxlen=v[1])),
        Codec("pickle", _is_left, _pickled, _trusted if trust else _refused),
    ]


def _is_schedule(value: Any) -> bool:
    """Whether it is a function that SB3 2.6 makes of a number or of a schedule; later versions have objects for it."""
    return isinstance(value, FunctionType) and value.__qualname__ == "get_schedule_fn.<locals>.<lambda>"


def _packed_schedule(value: FunctionType) -> Any:
    """Returns what SB3 has made the function of: a number, or an object that is a schedule."""
    inner = value.__closure__[0].cell_contents if value.__closure__ else value
    if getattr(inner, "__qualname__", None) == "constant_fn.<locals>.func":
        return inner(1.0)
    return inner


def _packed_space(space: Any) -> list[Any]:
    return [type(space).__name__, *_SPACES[type(space)][0](space)]


def _unpacked_space(content: list[Any]) -> gym.Space[Any]:
    kind, *arguments = content
    unpacked: gym.Space[Any] = next(make for space, (_, make) in _SPACES.items() if space.__name__ == kind)(*arguments)
    return unpacked


def _packed_object(value: Any) -> list[Any]:
    return [type(value).__name__, dict(vars(value))]


def _unpacked_object(content: list[Any]) -> Any:
    name, attributes = content
    instance = object.__new__(_OBJECTS[name])
    vars(instance).update(attributes)
    return instance


def _is_known(value: Any) -> bool:
    if not isinstance(value, type) or not issubclass(value, _BASES):
        return False
    module = sys.modules.get(value.__module__)
    return _in_packages(value.__module__) and getattr(module, value.__qualname__, None) is value


def _in_packages(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in _PACKAGES)


def _unpacked_class(name: str) -> type:
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute) if _in_packages(module) else None
    except (ImportError, AttributeError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, _BASES)):
        raise Refused(f"the class {name}, which is none of SB3's, torch's or this library's")
    return kind


def _is_numpy_type(value: Any) -> bool:
    return isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))


def _numpy_type(content: list[Any]) -> Any:
    scalar, name = content
    dtype = np.dtype(str(name))
    return dtype.type if scalar else dtype


def _torch_type(name: str) -> torch.dtype:
    short = name.removeprefix("torch.")
    if short not in _DTYPES:
        raise ValueError(f"unknown torch type {name!r}")
    dtype: torch.dtype = getattr(torch, short)
    return dtype


def _is_left(value: Any) -> bool:
    plain = (dict, torch.Tensor, np.ndarray, np.generic, bytes, np.random.Generator)
    return not isinstance(value, plain)


def _pickled(value: Any) -> list[str]:
    kind = value if isinstance(value, type) else type(value)
    about = f"the class {kind.__qualname__}" if isinstance(value, type) else f"a {kind.__module__}.{kind.__qualname__}"
    try:
        return [about, base64.b64encode(cloudpickle.dumps(value)).decode()]
    except Exception as error:
        raise TypeError(f"{about} can be neither written as plain values nor pickled ({error}); exclude it") from error


def _trusted(content: list[str]) -> Any:
    return cloudpickle.load(io.BytesIO(base64.b64decode(content[1])))


def _refused(content: list[str]) -> Any:
    raise Refused(
        f"{content[0]}, which only a pickle can hold; reading it runs code: load with trust=True if you trust the "
        "file, or give the object itself by custom_objects"
    )
