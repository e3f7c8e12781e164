"""DACBench's own SGD environment with an instance's options; it is imported nowhere else."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.dacbench.instance import LARGEST_RATE, Instance


def installed() -> str | None:
    """The version of DACBench that is installed; None: it is not."""
    try:
        return version("dacbench")
    except PackageNotFoundError:
        return None


def make(instance: Instance, folder: Path) -> Any:
    """Makes DACBench's environment of an instance; it seeds torch's global generator.

    Its actions are a learning rate alone. By default they have β₁ of AdamW as a second number.

    Args:
        instance: what is trained.
        folder: where the files of the images are, see `Images.write`.

    Raises:
        ImportError: DACBench is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of environments whose packages are not installed
        from dacbench.benchmarks.sgd_benchmark import SGD_DEFAULTS
        from dacbench.envs import SGDEnv, SGDInstance

        config = SGD_DEFAULTS.copy()
        del config["config_space"]
        config |= {
            "action_space": gym.spaces.Box(0.0, LARGEST_RATE, (1,), np.float32),
            "epoch_mode": instance.by_epoch,
            "cutoff": instance.cutoff,
            "seed": instance.seed,
            "crash_penalty": instance.crash_penalty,
            "instance_set": {
                0: SGDInstance(
                    model=instance.network,
                    optimizer_type="AdamW",
                    optimizer_params={},
                    dataset_path=str(folder),
                    dataset_name="MNIST",
                    batch_size=instance.batch_size,
                    fraction_of_dataset=1.0,
                    train_validation_ratio=instance.train_share,
                    seed=instance.seed,
                )
            },
        }
        return SGDEnv(config)
