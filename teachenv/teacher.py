"""What a teacher must have, by what is asked of it.

These are protocols: a class keeps one by having its methods, and derives from nothing. A teacher that only acts needs
`predict`; each protocol below asks for more. The teachers of `meta` and `agents` keep all of them.

| protocol | who asks for it |
|---|---|
| `Acts` | whatever trains students under a teacher: `teachenv.compare` |
| `Learns` | `teachenv.compare`, for a method with `learns=True` |
| `Followed` | `teachenv.compare`, to measure a teacher as it learns; Stable-Baselines3's algorithms keep it |
| `Resumes` | `teachenv.compare`, to go on with a teacher's training after an interruption |
| `HasActor` | `meta.TaughtLoss`, which takes the actor out of the teacher |

What teachers ask of an environment is that its `problem` keeps `Taught`: by that attribute they know that students are
trained in it.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from torch import nn


class Taught(Protocol):
    """The `problem` of an environment in which students are trained."""

    @property
    def actions(self) -> int:
        """The number of actions in an episode."""

    @property
    def meaning(self) -> dict[str, str]:
        """What decides, besides the spaces, what actions mean, by name; a trained teacher goes with no other."""


class Acts(Protocol):
    """It takes actions."""

    def predict(self, observation: Any, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """Returns the pair (actions, state) for observations, a row for each student; the state may be None."""


class Learns(Acts, Protocol):
    """It learns in the environment that it was made with."""

    def learn(self, total_timesteps: int, /) -> Any:
        """Learns for so many steps of the environment, those of all its students together."""


class Followed(Acts, Protocol):
    """It says how far it is while it learns: `learn` calls a callback of Stable-Baselines3."""

    @property
    def env(self) -> Any:
        """The environment: a `VecEnv` of Stable-Baselines3, or one of this package's; None: it can only act."""

    @property
    def num_timesteps(self) -> int:
        """The steps of the environment that it has learned for."""

    def learn(
        self,
        total_timesteps: int,
        /,
        *,
        callback: Any = ...,
        log_interval: int | None = ...,
        reset_num_timesteps: bool = ...,
    ) -> Any:
        """Learns for so many steps; with `reset_num_timesteps=False` it goes on from where it is."""


class Resumes(Followed, Protocol):
    """Its training can be saved at any time, and the loaded one ends, bitwise, where the unbroken one ends."""

    @property
    def mark(self) -> Any:
        """Where a saved training goes on, as a value; None: nothing was learned yet."""

    def save(self, path: Any) -> None:
        """Writes the teacher as it was at the mark."""

    @classmethod
    def load(cls, path: Any, env: Any = ...) -> Any:
        """Makes the teacher that `save` wrote; its next `learn(..., reset_num_timesteps=False)` goes on."""


class HasActor(Acts, Protocol):
    """Its deterministic actions come from one network."""

    @property
    def env(self) -> Any:
        """The environment that it was made or loaded with; None: it can only act."""

    @property
    def actor_network(self) -> nn.Module:
        """The network from observations to actions, with tanh at its end or before it."""


def lacking(teacher: object, protocol: type) -> list[str]:
    """Returns the names that a teacher lacks of a protocol, in the order in which the protocol has them."""
    kinds = [kind for kind in reversed(protocol.__mro__) if kind not in (object, Protocol, *Protocol.__mro__)]
    names = dict.fromkeys(name for kind in kinds for name in vars(kind) if not name.startswith("_"))
    return [name for name in names if not hasattr(teacher, name)]


def is_followed(teacher: Any) -> bool:
    """Whether a teacher keeps `Followed`: its `learn` must take a callback, too."""
    return not lacking(teacher, Followed) and "callback" in inspect.signature(teacher.learn).parameters
