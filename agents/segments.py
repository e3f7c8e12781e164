"""PPO that goes on after an interruption, in any environment, as if there had been none.

SB3 saves networks and optimisers, but not the environment, and most environments cannot be saved. So training is cut
into segments of whole rollouts. At the start of each the model is saved, the generators are seeded with a function of
(seed, environment steps so far), and the environment begins anew. All that follows is then a function of the file: a
run that was killed goes on from it and ends, bitwise, where an unbroken run ends.

Episodes that are under way at the end of a segment are cut off there. PPO bootstraps from their last observations, as
at the end of every rollout, so returns stay right; what is lost is what lies deeper in an episode than a segment is
long. Choose segments of several episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from agents.atari import AtariVecEnv
from meta.saving.models import PlainModel, model_of, read_content, saved_attributes, without_folder, write_model
from meta.saving.wrapper_states import set_wrapper_states, wrapper_states
from teachenv import checks
from teachenv.fingerprints import describe

AnyPPO = TypeVar("AnyPPO", bound=PPO)


class Segments(BaseCallback):
    """Saves a model at the start of each segment, and begins the segment from what is saved.

    Args:
        path: the path of the file (zip), which is replaced each time, whole or not at all.
        rollouts: the number of rollouts in a segment.

    Raises:
        ValueError: `rollouts` is not a positive integer.
    """

    def __init__(self, path: str | Path, rollouts: int = 50) -> None:
        """Checks the number of rollouts."""
        super().__init__()
        self.path, self.rollouts = Path(path), checks.integer("rollouts", rollouts, 1)
        self._begun = False

    def _on_rollout_start(self) -> None:
        model = self.model
        assert isinstance(model, PPO)
        if not self._begun:
            _restore_wrappers(model)
        if model.num_timesteps % (model.n_steps * model.n_envs * self.rollouts) == 0:
            save(model, self.path)
        elif self._begun:
            return
        # Also where a finished training is prolonged in the middle of a segment.
        self._begun = True
        _begin(model)

    def _on_step(self) -> bool:
        return True


def save(model: PPO, path: Path) -> None:
    """Writes the model, at once, with what wrappers around its environment remember, such as running means."""
    assert model.env is not None
    # SB3 leaves it out of its files; a model's attributes are in them.
    model.segment_wrappers = wrapper_states(model.env)  # type: ignore[attr-defined]
    if isinstance(model, PlainModel):
        model.save(path)
    else:
        write_model(model, path, saved_attributes(model))


def _restore_wrappers(model: PPO) -> None:
    states = getattr(model, "segment_wrappers", None)
    if states is not None:
        assert model.env is not None
        set_wrapper_states(model.env, states)


def _begin(model: PPO) -> None:
    env = model.env
    assert isinstance(env, VecEnv)
    seed = int(np.random.SeedSequence([model.seed or 0, model.num_timesteps]).generate_state(1)[0]) // 2
    set_random_seed(seed, using_cuda=model.device.type == "cuda")
    model.action_space.seed(seed)
    env.seed(seed)
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    if model.use_sde:
        model.policy.reset_noise(env.num_envs)


def learn_in_segments(
    model: AnyPPO, total_timesteps: int, path: str | Path, *, rollouts: int = 50, callback: MaybeCallback = None
) -> AnyPPO:
    """Trains a model in segments, and goes on from the file at `path` if there is one.

    Args:
        model: PPO or a subclass, untrained, with its environment.
        total_timesteps: the number of environment steps of the whole training run.
        path: the path of the checkpoint; the finished model is there in the end.
        rollouts: the number of rollouts in a segment, by which episodes are cut off: the same each time.
        callback: a callback of SB3, or a list of them, called after the segment has begun.

    Returns:
        The trained model: the given one, or the one that the file holds.

    Raises:
        ValueError: the file holds a model of other settings; a number is out of its range; or the model's class does
            not keep one of its options as an attribute.
    """
    total_timesteps = checks.integer("total_timesteps", checks.whole(total_timesteps), 0)
    path, segments = Path(path), Segments(path, rollouts)
    settings = _settings(model, segments.rollouts)
    if path.exists():
        model = _saved(model, path, settings)
    model.segment_settings = settings  # type: ignore[attr-defined]
    callbacks: list[Any] = [segments]
    if callback is not None:
        callbacks += callback if isinstance(callback, list) else [callback]
    remaining = total_timesteps - model.num_timesteps
    if remaining > 0:
        with without_folder(model):
            model.learn(remaining, CallbackList(callbacks), reset_num_timesteps=False)
        save(model, path)
    return model


def _saved(model: AnyPPO, path: Path, settings: dict[str, str]) -> AnyPPO:
    """Reads the model that the file holds, which must have the settings of the given one."""
    # What makes a model is the given one's, and is not read from the file, so that it may be functions.
    replaced = {name: value for name, value in saved_attributes(model).items() if name in _GIVEN}
    name, content = read_content(type(model), path, replaced)
    saved_settings = content["attributes"].get("segment_settings", {})
    differing = [key for key in sorted(settings) if saved_settings.get(key) != settings[key]]
    if "rollouts" not in saved_settings:
        raise ValueError(
            f"an earlier version of teachenv wrote {path}, and compared other settings; finish the training with that "
            "version, or choose another path"
        )
    if differing:
        raise ValueError(
            f"{path} holds a model with other settings than the one to train (they differ in {', '.join(differing)}); "
            "remove it, or choose another path"
        )
    saved: AnyPPO = model_of(type(model), name, content, device=model.device)
    assert model.env is not None
    saved.set_env(model.env)
    return saved


_NOT_COMPARED = ("env", "device", "verbose", "tensorboard_log", "stats_window_size")
"""Options on which no result depends, and the environment, whose own options `_environment` compares."""
_ATTRIBUTES = {"policy": "policy_class", "students": "num_students"}
"""The attribute that holds an option's value, where its name is not the option's."""
_SCHEDULES = {"learning_rate": "lr_schedule", "clip_range": "clip_range", "clip_range_vf": "clip_range_vf"}
_GIVEN = (
    *("learning_rate", "clip_range", "clip_range_vf", "policy_class", "policy_kwargs", "rollout_buffer_class"),
    *("rollout_buffer_kwargs", "student_policy", "student_policy_kwargs"),
)


def _settings(model: PPO, rollouts: int) -> dict[str, str]:
    """Returns as texts what must be the same in a file and in the model that would go on from it.

    Raises:
        ValueError: an option of the model's class is in no attribute of the model.
    """
    settings: dict[str, Any] = {}
    for name in sorted(checks.options_of(type(model)).difference(_NOT_COMPARED)):
        attribute = _SCHEDULES.get(name, _ATTRIBUTES.get(name, name))
        if not hasattr(model, attribute):
            raise ValueError(
                f"the option {name} of {type(model).__name__} is not an attribute of the model, expected one, which is "
                f"compared with the one in the file: add self.{name} = {name} to its __init__"
            )
        value = getattr(model, attribute)
        if name in _SCHEDULES and value is not None:
            # Functions of equal values are as good.
            value = [value(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)]
        settings[name] = value
    settings["observation_space"], settings["action_space"] = str(model.observation_space), str(model.action_space)
    settings |= {"environment": _environment(model), "rollouts": rollouts}
    return {name: describe(value) for name, value in settings.items()}


def _environment(model: PPO) -> list[Any]:
    """Returns what is known of an environment: its wrappers, options, registration, and how many copies there are."""
    env, parts = model.env, []
    assert env is not None
    specs = env.get_attr("spec") if env.has_attr("spec") else []
    while isinstance(env, VecEnvWrapper):
        options = {name: getattr(env, name, None) for name in _NORMALIZED} if isinstance(env, VecNormalize) else {}
        parts.append([type(env).__name__, options])
        env = env.venv
    # Environments that need not be registered say themselves what their options are.
    of_atari = env.options if isinstance(env, AtariVecEnv) else None
    problems = env.get_attr("problem") if env.has_attr("problem") else []
    of_problems = [getattr(problem, "fingerprint", None) for problem in problems]
    registered = [[s.id, s.kwargs, s.max_episode_steps, str(s.additional_wrappers)] for s in specs if s is not None]
    wrapped = env.get_attr("unwrapped") if not registered and env.has_attr("unwrapped") else []
    return [parts, of_atari, of_problems, env.num_envs, registered, [type(env_object) for env_object in wrapped]]


_NORMALIZED = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "training")
