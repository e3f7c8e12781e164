"""Learning from teaching in reinforcement learning: PPO whose policy students imitate, on Atari and on control."""

from benchmarks.lot_atari.main import Options, run

__all__ = ["Options", "run"]
