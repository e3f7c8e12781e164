"""Learning from teaching in reinforcement learning: PPO whose policy students imitate, on Atari and on control."""

from benchmarks.lot_atari.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
