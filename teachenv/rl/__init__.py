"""Students that learn by reinforcement: PPO on control tasks, whose coefficients a teacher sets."""

from teachenv.rl.coefficients import CONTROLS, Coefficients
from teachenv.rl.dynamics import ControlDynamics, ControlStudent
from teachenv.rl.env import TeachControlEnv
from teachenv.rl.physics import PHYSICS
from teachenv.rl.ppo import PPO, Rollout
from teachenv.rl.settings import ControlSettings

__all__ = [
    "CONTROLS",
    "PHYSICS",
    "PPO",
    "Coefficients",
    "ControlDynamics",
    "ControlSettings",
    "ControlStudent",
    "Rollout",
    "TeachControlEnv",
]
