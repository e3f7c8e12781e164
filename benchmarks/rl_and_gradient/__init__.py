"""Where reinforcement learning finds what the exact gradient finds, and where neither does."""

from benchmarks.rl_and_gradient.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
