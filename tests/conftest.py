import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# One thread: test workers share the cores, and the last bits of a sum may depend on how many threads made it.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def in_new_process():
    """Runs Python code in a fresh interpreter and returns what it printed."""

    def run(code: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],  # finds the packages, installed or not
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
