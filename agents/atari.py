"""Atari games as ale-py runs them, many at once, for Stable-Baselines3.

ale-py's vector environment plays, scales, stacks and skips frames in C++ threads. What its options cannot say is here:

- A lost life ends an episode of the learner, but not the game, and returns in the log are those of whole games. (Its
  `episodic_life` begins the game anew, so that later lives are never seen.)
- Rewards are clipped for the learner, and true ones are in the log.
- Where a game waits for FIRE after a lost life, the next action is FIRE, whatever the learner chose. (SB3's wrapper
  presses it between two observations; batches of games have no such moment.)
- A game that ends by its length is a truncation, whose last observation PPO bootstraps from.
"""

from __future__ import annotations

import difflib
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from meta.vec_env import Indices
from teachenv.files import whole_file

GAMES = ("BeamRider", "Breakout", "UpNDown", "Gravitar")
"""Those of LoT's paper."""

_FIRE = 1


class AtariVecEnv(VecEnv):
    """Games of one kind, played side by side.

    Observations are (4, 84, 84) bytes, the last four frames in grey; actions are the game's own (ALE's minimal set).
    `infos[i]["episode"]` tells a finished game's true return `r` and length `l` in steps, as SB3's `Monitor` does.

    Args:
        game: as in `ALE/Breakout-v5` or `BreakoutNoFrameskip-v4` ("Breakout"), or as ROMs are named ("breakout").
        num_envs: how many games.
        seed: of the first reset; game i has seed + i.
        lives: whether a lost life ends an episode of the learner.
        clip_rewards: whether the learner gets the reward's sign.
        noop_max: games begin with up to so many idle frames.
        frame_skip: frames an action lasts.
        max_frames: after which a game is truncated.
        sticky: probability that the last action is repeated instead; 0 in the papers here.
        threads: that play; 0: ale-py's choice.

    Raises:
        ImportError: ale-py is not installed.
        ValueError: an unknown game.
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 8,
        *,
        seed: int | None = None,
        lives: bool = True,
        clip_rewards: bool = True,
        noop_max: int = 30,
        frame_skip: int = 4,
        max_frames: int = 108_000,
        sticky: float = 0.0,
        threads: int = 0,
    ) -> None:
        """Loads the game."""
        vector_env = _ale("vector_env")
        self.game = rom_name(game)
        self.games = vector_env.AtariVectorEnv(
            self.game,
            num_envs,
            autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
            life_loss_info=lives,
            reward_clipping=False,
            noop_max=noop_max,
            frameskip=frame_skip,
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky,
            num_threads=threads,
        )
        self.clip_rewards = clip_rewards
        self._fires = lives and "FIRE" in (action.name for action in self.games.ale.get_action_set())
        self._must_fire = np.zeros(num_envs, dtype=bool)
        self._lives = np.zeros(num_envs, dtype=int)
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=int)
        self._start = time.time()
        super().__init__(num_envs, self.games.single_observation_space, self.games.single_action_space)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> np.ndarray:
        """Begins all games anew, with the seeds given to `seed()` since the last reset."""
        seeds = None if self._seeds[0] is None else np.array(self._seeds) % 2**31
        observations, infos = self.games.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        self._lives[:] = infos["lives"]
        self._must_fire[:], self._returns[:], self._lengths[:] = False, 0, 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return np.array(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Sends the actions; the games go on meanwhile."""
        self.games.send(np.where(self._must_fire, _FIRE, actions).astype(np.int64))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """What came of it."""
        observations, rewards, terminated, truncated, infos = self.games.recv()
        observations, lives = np.array(observations), infos["lives"].copy()
        dones = terminated | truncated
        # ale-py says "terminated" of a lost life, too.
        over = truncated | (terminated & ((lives == 0) | (lives >= self._lives)))
        self._returns += rewards
        self._lengths += 1
        rows: list[dict[str, Any]] = [{"lives": int(n)} for n in lives]
        for i in np.flatnonzero(dones):
            rows[i]["terminal_observation"] = observations[i].copy()
            rows[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        if over.any():
            for i in np.flatnonzero(over):
                length, elapsed = int(self._lengths[i]), round(time.time() - self._start, 6)
                rows[i]["episode"] = {"r": float(self._returns[i]), "l": length, "t": elapsed}
            self._returns[over], self._lengths[over] = 0, 0
            begun, infos = self.games.reset(options={"reset_mask": over})
            observations[over] = begun[over]
            lives[over] = infos["lives"][over]
        self._must_fire = self._fires & dones & ~over
        self._lives = lives
        return observations, np.sign(rewards) if self.clip_rewards else rewards, dones, rows

    def close(self) -> None:
        """Ends the games."""
        self.games.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The batch's attribute, once for each game."""
        return [getattr(self.games, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refused: the games are one batch."""
        raise NotImplementedError(f"games in a batch have no attributes of their own: cannot set {attr_name!r}")

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Refused: the games are one batch."""
        raise NotImplementedError(f"games in a batch have no methods of their own: cannot call {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """False: nothing wraps a single game."""
        return [False for _ in self._get_indices(indices)]


def rom_name(game: str) -> str:
    """The name of a game's ROM: "UpNDown", "ALE/UpNDown-v5" and "UpNDownNoFrameskip-v4" are "up_n_down".

    Raises:
        ImportError: ale-py is not installed.
        ValueError: an unknown game.
    """
    known = _ale("roms").get_all_rom_ids()
    plain = re.sub(r"(NoFrameskip|Deterministic)?(-ram)?(-v\d+)?$", "", game.removeprefix("ALE/"))
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain).lower()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(rom_name(g) for g in GAMES)
        raise ValueError(f"unknown Atari game {game!r}; known are, for example, {near} (ale_py.roms has them all)")
    return name


def register_games() -> None:
    """Makes Gymnasium know ale-py's games.

    Raises:
        ImportError: ale-py is not installed.
    """
    gym.register_envs(_ale())


def single_game(game: str, **options: Any) -> gym.Env[Any, Any]:
    """One game with the same frames, whole lives and true rewards; it can be rendered.

    Args:
        game: see `AtariVecEnv`.
        **options: of `gymnasium.make`.
    """
    register_games()
    name = "".join(part.capitalize() for part in rom_name(game).split("_"))
    env = gym.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0, **options)
    env = gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=False)
    return gym.wrappers.FrameStackObservation(env, 4)


def record_game(model: BaseAlgorithm, game: str, path: str | Path, *, seed: int = 0, max_steps: int = 2000) -> float:
    """Plays one game with a trained policy and writes it as a video.

    Args:
        model: trained on `AtariVecEnv`.
        game: see `AtariVecEnv`.
        path: of the MP4.
        seed: of the game and of the actions, which are drawn.
        max_steps: after which the video ends (15 of them are a second of the game).

    Returns:
        The game's true return so far.
    """
    env = single_game(game, render_mode="rgb_array")
    fires = env.unwrapped.get_action_meanings()[_FIRE] == "FIRE"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder, whole_file(path) as partial:
        # Gymnasium names its files itself, and warns of a folder that is there.
        env = gym.wrappers.RecordVideo(env, f"{folder}/game", disable_logger=True)
        observation, info = env.reset(seed=seed)
        model.set_random_seed(seed)
        total, lives = 0.0, 0
        for _ in range(max_steps):
            action, _ = model.predict(np.asarray(observation), deterministic=False)
            # As in training: the first action of a life starts the ball.
            chosen = _FIRE if fires and info["lives"] != lives else int(action)
            lives = info["lives"]
            observation, reward, terminated, truncated, info = env.step(chosen)
            total += float(reward)
            if terminated or truncated:
                break
        env.close()  # type: ignore[no-untyped-call]
        (video,) = Path(folder, "game").iterdir()
        shutil.move(video, partial)
    return total


def _ale(module: str | None = None) -> Any:
    try:
        import ale_py
        import ale_py.vector_env
    except ImportError as error:
        raise ImportError("Atari needs ale-py: pip install 'teachenv[atari]'") from error
    return ale_py if module is None else getattr(ale_py, module)
