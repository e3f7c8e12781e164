"""Teachers that learn from the trainings of other students, with a checkpoint before each update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class _Saved(BaseCallback):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_rollout_start(self) -> None:
        assert self.model is not None
        if self.num_timesteps:
            self.model.save(self.path)

    def _on_step(self) -> bool:
        return True


def learned(teacher: Any, path: Path, total_timesteps: int) -> Any:
    """The teacher after so many actions; goes on from the file at `path`, if there is one.

    Args:
        teacher: untrained, with its environment.
        path: of the checkpoint, with its suffix `.zip`.
        total_timesteps: actions.
    """
    if path.exists():
        teacher = type(teacher).load(path, env=teacher.env)
    remaining = total_timesteps - teacher.num_timesteps
    if remaining > 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        teacher.learn(remaining, _Saved(path), log_interval=None, reset_num_timesteps=teacher.num_timesteps == 0)
    return teacher
