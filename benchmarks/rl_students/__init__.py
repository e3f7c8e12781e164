"""Teaching students that learn by reinforcement: who sets PPO's coefficients best while it trains?"""

from benchmarks.rl_students.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
