"""Stable-Baselines3's models in files of plain values, so that loading one runs no code of the file's.

SB3 writes what is not JSON with cloudpickle, and reading a pickle runs whatever its writer liked. Here a file holds
values (`teachenv.checkpoints`); spaces, schedules, action noise and classes of SB3 and torch have a plain form, and so
has each dataclass that was `declare`d. What is left (a lambda as learning rate, a policy class of your own) is pickled
and read with `trust=True` alone; `custom_objects={"learning_rate": ...}` gives it without reading it.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import io
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common import noise, utils
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from teachenv import checkpoints
from teachenv.checkpoints import Codec, Refused

Model = TypeVar("Model", bound=BaseAlgorithm)
Declared = TypeVar("Declared", bound=type)

_KIND = "a model"
# Made anew from what is saved.
_DERIVED = (
    "lr_schedule",
    *(f"{part}batch_norm_stats{of}" for part in ("", "actor_", "critic_") for of in ("", "_target")),
)
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
        TypeError: the class is neither.

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


for _kind in (TrainFreq,):
    declare(_kind)


def codecs(trust: bool = False) -> list[Codec | type]:
    """How files hold what models consist of.

    Args:
        trust: whether pickled objects are read.
    """
    return [
        *_declared.values(),
        Codec("space", lambda value: type(value) in _SPACES, _packed_space, _unpacked_space),
        Codec("object", lambda value: type(value) in _OBJECTS.values(), _packed_object, _unpacked_object),
        Codec("class", _is_known, lambda kind: f"{kind.__module__}:{kind.__qualname__}", _unpacked_class),
        Codec("numpy type", _is_numpy_type, lambda kind: [isinstance(kind, type), np.dtype(kind).str], _numpy_type),
        Codec("torch type", lambda value: isinstance(value, torch.dtype), str, _torch_type),
        Codec("device", lambda value: isinstance(value, torch.device), str, torch.device),
        Codec("unit", lambda value: isinstance(value, TrainFrequencyUnit), lambda unit: unit.value, TrainFrequencyUnit),
        Codec("queue", lambda v: type(v) is deque, lambda v: [list(v), v.maxlen], lambda v: deque(v[0], maxlen=v[1])),
        Codec("pickle", _is_left, _pickled, _trusted if trust else _refused),
    ]


def write_model(
    model: BaseAlgorithm,
    file: Any,
    attributes: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model, whole or not at all.

    Args:
        model: whose class is written.
        file: a path (without a suffix it gets `.zip`), or a file open for writing.
        attributes: of the model.
        parameters: state dictionaries by name; None: the model's.
        variables: single tensors by name; None: the model's.
    """
    if isinstance(file, str | Path):
        file = Path(file)
        file = file if file.suffix else file.with_suffix(".zip")
    content = {
        "class": type(model).__qualname__,
        "attributes": {name: value for name, value in attributes.items() if name not in _DERIVED},
        "parameters": model.get_parameters() if parameters is None else parameters,
        "variables": variables_of(model) if variables is None else variables,
    }
    checkpoints.save(file, content, _KIND, codecs())


def saved_attributes(
    model: BaseAlgorithm, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
) -> dict[str, Any]:
    """The attributes that SB3 saves of a model; see its `save`."""
    names, tensors = model._get_torch_save_params()
    left_out = (set(exclude or ()) | set(model._excluded_save_params())) - set(include or ())
    left_out |= {name.split(".")[0] for name in (*names, *tensors)}
    return {name: value for name, value in vars(model).items() if name not in left_out}


def variables_of(model: BaseAlgorithm) -> dict[str, Any]:
    """The single tensors that are part of a model, SAC's log α for one."""
    return {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[1]}


def read_model(
    cls: type[Model],
    file: Any,
    env: Any = None,
    device: torch.device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    force_reset: bool = True,
    trust: bool = False,
    **kwargs: Any,
) -> Model:
    """Makes the model that `write_model` wrote; the arguments are those of SB3's `load`, and `trust`.

    Raises:
        ValueError: the file is damaged or of something else, holds a model of another class or a pickle that is not
            trusted, or the environment has other spaces.
    """
    name, content = read_content(cls, file, custom_objects or {}, trust)
    return model_of(cls, name, content, env, device, force_reset, **kwargs)


def model_of(
    cls: type[Model],
    name: str,
    content: dict[str, Any],
    env: Any = None,
    device: torch.device | str = "auto",
    force_reset: bool = True,
    **kwargs: Any,
) -> Model:
    """The model of what `read_content` read; see `read_model`."""
    attributes = content["attributes"]
    options = attributes["policy_kwargs"]
    if kwargs.get("policy_kwargs", options) != options:
        raise ValueError(f"{name} holds a policy of policy_kwargs={options}, found {kwargs['policy_kwargs']}")
    if env is not None:
        env = cls._wrap_env(env, attributes["verbose"])
        try:
            check_for_correct_spaces(env, attributes["observation_space"], attributes["action_space"])
        except ValueError as error:
            raise ValueError(
                f"{error}: {name} holds a model of the first, the environment has the second; make it as it was made "
                "for the model"
            ) from error
        attributes["n_envs"] = env.num_envs
        if force_reset:
            attributes["_last_obs"] = None
    model = cls(policy=attributes["policy_class"], env=env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
    vars(model).update(attributes)
    vars(model).update(kwargs)
    model._setup_model()
    try:
        BaseAlgorithm.set_parameters(model, content["parameters"], exact_match=True, device=device)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {name} are not those of the policy that it describes: {reason}") from error
    for variable, value in content["variables"].items():
        if value is not None:
            recursive_setattr(model, f"{variable}.data", value.to(model.device))
    if getattr(model, "use_sde", False):
        model.policy.reset_noise()  # type: ignore[operator]
    return model


def read_content(cls: type, file: Any, replaced: Mapping[str, Any], trust: bool = False) -> tuple[str, dict[str, Any]]:
    """The file's name, and what `write_model` wrote: attributes, parameters and variables; see `read_model`."""
    if isinstance(file, str | Path):
        file = Path(file)
        if not file.exists() and not file.suffix:
            file = file.with_suffix(".zip")
        name = str(file)
        if file.is_file():
            _check_not_sb3s(file, cls)
    else:
        name = str(getattr(file, "name", "the file"))
    places = {f"attributes.{key}": value for key, value in replaced.items()}
    try:
        content = checkpoints.load(file, _KIND, codecs(trust), places)
    except Refused as error:
        raise Refused(str(error).replace(": attributes.", ": ")) from error
    if content["class"] != cls.__qualname__:
        raise ValueError(
            f"{name} holds a model of class {content['class']}, expected {cls.__qualname__}; load it with "
            f"{content['class']}.load"
        )
    return name, content


def _check_not_sb3s(path: Path, cls: type) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return
    if "data" in names:
        raise ValueError(
            f"{path} is a file of Stable-Baselines3's own format, expected one that {cls.__qualname__}.save wrote; "
            "reading it would run code that it holds: train and save again"
        )


class PlainModel(BaseAlgorithm):
    """SB3's `save`, `load` and `set_parameters` with files of plain values."""

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """SB3's `save`; an interrupted one leaves no half-written file, and an older file of that name as it was."""
        write_model(self, path, saved_attributes(self, exclude, include))

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        """SB3's `load`; it runs no code of the file's, unless with `trust`.

        Args:
            path: see SB3.
            env: see SB3.
            device: see SB3.
            custom_objects: attributes by name in the place of the file's, which are not read.
            print_system_info: see SB3.
            force_reset: see SB3.
            trust: read pickled objects, too, such as a function for the learning rate; they can run any code.
            **kwargs: see SB3.

        Raises:
            ValueError: the file is damaged, or of something else, or needs `trust`; or the environment has other spaces
                than the one trained on.
        """
        if print_system_info:
            get_system_info()
        return read_model(cls, path, env, device, custom_objects, force_reset, trust, **kwargs)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """SB3's; of a file, what `save` wrote."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = read_content(type(self), load_path_or_dict, {})[1]["parameters"]
        super().set_parameters(load_path_or_dict, exact_match, device)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> Any:
        with without_folder(self):
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)


@contextmanager
def without_folder(model: BaseAlgorithm) -> Iterator[None]:
    """Inside the block SB3 makes no logger for a model that writes no logs, and so no empty folder for them."""
    if model._custom_logger or model.tensorboard_log:
        yield
        return
    formats: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if model.verbose else []
    model._logger, model._custom_logger = Logger(None, formats), True
    try:
        yield
    finally:
        model._custom_logger = False


def _packed_space(space: Any) -> list[Any]:
    return [type(space).__name__, *_SPACES[type(space)][0](space)]


def _unpacked_space(content: list[Any]) -> gym.Space[Any]:
    kind, *arguments = content
    made: gym.Space[Any] = next(make for space, (_, make) in _SPACES.items() if space.__name__ == kind)(*arguments)
    return made


def _packed_object(value: Any) -> list[Any]:
    return [type(value).__name__, dict(vars(value))]


def _unpacked_object(content: list[Any]) -> Any:
    name, attributes = content
    made = object.__new__(_OBJECTS[name])
    vars(made).update(attributes)
    return made


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
        found = getattr(importlib.import_module(module), attribute) if _in_packages(module) else None
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, _BASES)):
        raise Refused(f"the class {name}, which is none of SB3's, torch's or this library's")
    return found


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
