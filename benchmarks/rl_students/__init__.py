"""Teaching students that learn by reinforcement: who sets PPO's coefficients best while it trains?"""

from benchmarks.rl_students.main import Options, run

__all__ = ["Options", "run"]
