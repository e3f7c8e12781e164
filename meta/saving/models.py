"""Stable-Baselines3's models in files of plain values, so that loading one runs no code of the file's.

SB3 writes what is not JSON with cloudpickle, and reading a pickle runs whatever its writer liked. Here a file holds
values (`teachenv.checkpoints`), in the plain forms of `meta.saving.codecs`. What has none (a lambda as learning rate,
a policy class of your own) is pickled and read with `trust=True` alone; `custom_objects={"learning_rate": ...}` gives
it without reading it.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from meta.saving.codecs import codecs
from teachenv import checkpoints, checks
from teachenv.checkpoints import Refused

Model = TypeVar("Model", bound=BaseAlgorithm)

_NEEDED = ("policy_class", "policy_kwargs", "observation_space", "action_space", "verbose")
"""Attributes without which no model can be built."""

_KIND = "a model"
# Made anew from what is saved.
_DERIVED = (
    "lr_schedule",
    *(f"{part}batch_norm_stats{of}" for part in ("", "actor_", "critic_") for of in ("", "_target")),
)


def write_model(
    model: BaseAlgorithm,
    file: Any,
    attributes: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model, whole or not at all.

    Args:
        model: the model whose class is written.
        file: a path (without a suffix it gets `.zip`), or a file open for writing.
        attributes: attributes of the model by name.
        parameters: state dictionaries of its networks and optimisers by name; None: as they are in the model.
        variables: single tensors by name; None: as they are in the model.
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
    """Returns the attributes of a model that SB3's `save` writes, by name."""
    names, tensors = model._get_torch_save_params()
    left_out = (set(exclude or ()) | set(model._excluded_save_params())) - set(include or ())
    left_out |= {name.split(".")[0] for name in (*names, *tensors)}
    return {name: value for name, value in vars(model).items() if name not in left_out}


def variables_of(model: BaseAlgorithm) -> dict[str, Any]:
    """Returns the single tensors that are part of a model, SAC's log α for one, by name."""
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
    """Makes the model of what `read_content` read; `read_model` describes the arguments."""
    attributes = content["attributes"]
    missing = [key for key in _NEEDED if key not in attributes]
    if missing:
        raise ValueError(
            f"{name} lacks {', '.join(missing)} of its model, which was saved without; expected a model saved whole; "
            "save it again without exclude="
        )
    options = attributes["policy_kwargs"]
    if kwargs.get("policy_kwargs", options) != options:
        raise ValueError(f"{name} holds a policy of policy_kwargs={options}, found {kwargs['policy_kwargs']}")
    if env is not None:
        env = cls._wrap_env(maybe_make_env(env, attributes["verbose"]), attributes["verbose"])
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
    try:
        model = cls(policy=attributes["policy_class"], env=env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
        vars(model).update(attributes)
        vars(model).update(kwargs)
        model._setup_model()
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{name} describes a {cls.__name__} that cannot be built ({reason}); it was changed after it was saved, or "
            "another version wrote it; save the model again"
        ) from error
    try:
        BaseAlgorithm.set_parameters(model, content["parameters"], exact_match=True, device=device)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {name} are not those of the policy that it describes: {reason}") from error
    for variable, value in content["variables"].items():
        if value is not None:
            recursive_setattr(model, f"{variable}.data", value.to(model.device))
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]
    return model


def read_content(cls: type, file: Any, replaced: Mapping[str, Any], trust: bool = False) -> tuple[str, dict[str, Any]]:
    """Returns (the file's name, what `write_model` wrote: attributes, parameters and variables)."""
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

    @classmethod
    def option_names(cls) -> set[str]:
        """Returns the names of the arguments that a model is made with."""
        return checks.options_of(cls)

    def _check_options(self, options: Iterable[str]) -> None:
        """Refuses the name of an option that there is not.

        Raises:
            UnknownOption: there is no such option; the message has the nearest.
        """
        name = type(self).__name__
        given = (option for option in options if not option.startswith("_"))  # SB3's own are for `load`
        checks.known_options(name, given, self.option_names(), f"help({name})")

    def _check_env(self, env: Any) -> None:
        """Refuses to be made, rather than loaded, without an environment.

        Raises:
            ValueError: there is none.
        """
        if env is None:
            name = type(self).__name__
            raise ValueError(f'{name} needs an environment, found None; make one, such as gym.make("TeachDigits-v0")')

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
            path: the path of the file, or a file open for reading.
            env: the environment to learn in; None: the model can only predict until `set_env`.
            device: the device of the networks.
            custom_objects: attributes by name in the place of the file's, which are not read.
            print_system_info: prints the versions of this machine's packages.
            force_reset: resets the environment before the next `learn`, as SB3 does.
            trust: True: pickled objects are read, too, such as a function for the learning rate; they can run any code.
            **kwargs: attributes that the model shall have instead of the file's, as in SB3.

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
        """SB3's `set_parameters`; a path is one of a file that `save` wrote."""
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
        # What is left of a training that took whole rollouts beyond its total may be negative.
        total_timesteps = checks.integer(
            "total_timesteps", checks.whole(total_timesteps), 0 if reset_num_timesteps else None
        )
        with without_folder(self):
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)


@contextmanager
def without_folder(model: BaseAlgorithm) -> Iterator[None]:
    """Keeps SB3, inside the block, from making an empty folder of logs for a model that writes none."""
    if model._custom_logger or model.tensorboard_log:
        yield
        return
    formats: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if model.verbose else []
    model._logger, model._custom_logger = Logger(None, formats), True
    try:
        yield
    finally:
        model._custom_logger = False
