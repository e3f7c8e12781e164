"""Atari games as ale-py plays them, many at once, for Stable-Baselines3.

What the learner sees is what SB3's `make_atari_env` with `VecFrameStack` shows, to the last bit (tested frame by
frame): grey frames of the maximum of the last two, cleared stacks and the same hidden moves wherever an episode of the
learner begins. Each game is played, with its four frames a step, in a C++ thread of its own: games run side by side.

- A lost life ends an episode of the learner, but not the game, and returns in the log are those of whole games.
- An episode begins with moves that the learner does not see: NOOP after a lost life, then, where a game has FIRE, FIRE
  and action 2, four frames each. What they earn is in the log's returns and not in the learner's rewards.
- Rewards are clipped for the learner, and true ones are in the log.
- A game that ends by its length is a truncation, whose last observation PPO bootstraps from.

What differs from SB3: idle frames at the start (0 to 30 for 1 to 30) are drawn by ale-py's generator, lengths in the
log are steps of the learner (for single frames), a sticky action is drawn anew in each frame (for each step), and the
last frame of a game that is over is the one before where ale-py does not draw it; nothing is learned from it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.atari_game import SIZE, Game, grey_frames, import_ale, rom_name, screen_size
from meta.wrappers.vec_env import Indices
from teachenv.files import whole_file
from teachenv.optional import needed_for

_STACK = 4
_STEPS_A_SECOND = 15
"""Steps in a second of a game at its own speed, 60 frames a second, at four frames a step."""


@dataclass(frozen=True)
class AtariOptions:
    """On what the games of an `AtariVecEnv` depend, besides seeds and actions.

    Attributes:
        rom: the name of the game's ROM.
        lives: True: a lost life ends an episode of the learner. False: the end of the game does.
        clip_rewards: True: the learner gets the sign of the reward. False: the reward itself.
        noop_max: the largest number of idle frames that a game begins with.
        frame_skip: the number of frames that an action lasts.
        max_frames: the number of frames after which a game is truncated.
        sticky: the probability that the last action is repeated instead.
    """

    rom: str
    lives: bool
    clip_rewards: bool
    noop_max: int
    frame_skip: int
    max_frames: int
    sticky: float


class AtariVecEnv(VecEnv):
    """Games of one kind, played side by side.

    Observations are (4, 84, 84) bytes, the last four frames in grey, black before an episode's first; actions are the
    game's own (ALE's minimal set). `infos[i]["lives"]` are those left, and `infos[i]["episode"]` tells a finished
    game's true return `r` and length `l` in steps, as SB3's `Monitor` does. `get_images()` are the screens in colour.

    Args:
        game: the name of the game in `ALE/Breakout-v5` or `BreakoutNoFrameskip-v4` ("Breakout"), such a name itself, or
            the name of its ROM ("breakout").
        num_envs: the number of games.
        seed: the seed of the first reset; game i has seed + i.
        lives: True: a lost life ends an episode of the learner. False: the end of the game does.
        clip_rewards: True: the learner gets the sign of the reward. False: the reward itself.
        noop_max: the largest number of idle frames that a game begins with.
        frame_skip: the number of frames that an action lasts.
        max_frames: the number of frames after which a game is truncated.
        sticky: the probability that the last action is repeated instead; 0 in the papers here.
        threads: the number of games that are played at a time; 0: all.

    Attributes:
        options: the game's name and options, an `AtariOptions`.

    Raises:
        ModuleNotFoundError: ale-py or OpenCV is not installed.
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
        """Loads the game so many times, and seeds the copies if there is a seed."""
        rom = rom_name(game)
        self.options = AtariOptions(rom, lives, clip_rewards, noop_max, frame_skip, max_frames, sticky)
        self._grey = grey_frames()
        screen = screen_size(rom)
        self.games = [
            Game(
                rom,
                screen,
                lives,
                max_frames,
                noop_max=noop_max + 1,  # ale-py draws below it
                frameskip=frame_skip,
                repeat_action_probability=sticky,
            )
            for _ in range(num_envs)
        ]
        self._at_once = threads if 0 < threads < num_envs else num_envs
        self._actions: list[int] = []
        self._stacks = np.zeros((num_envs, _STACK, SIZE, SIZE), dtype=np.uint8)
        self._screens: list[np.ndarray | None] = [None] * num_envs
        self._lengths = np.zeros(num_envs, dtype=int)
        self._start = time.time()
        space = gym.spaces.Box(0, 255, self._stacks.shape[1:], np.uint8)
        super().__init__(num_envs, space, self.games[0].ale.single_action_space)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> np.ndarray:
        """Begins all games anew, with the seeds given to `seed()` since the last reset."""
        for i, game in enumerate(self.games):
            seed = self._seeds[i]
            self._show(i, game.begin_anew(None if seed is None else seed % 2**31), first=True)
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._stacks.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Sends the actions to the games, which play them in threads of their own."""
        self._actions = [int(action) for action in actions]
        for game, action in zip(self.games[: self._at_once], self._actions, strict=False):
            game.send(action)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Waits for all games and returns (observations, rewards, dones, infos); ended episodes begin anew."""
        rewards, dones = np.zeros(self.num_envs, dtype=np.float32), np.zeros(self.num_envs, dtype=bool)
        rows: list[dict[str, Any]] = []
        for i, game in enumerate(self.games):
            moved = game.recv()
            if i + self._at_once < self.num_envs:
                self.games[i + self._at_once].send(self._actions[i + self._at_once])
            rewards[i], dones[i] = moved.reward, moved.life_lost or moved.over
            self._lengths[i] += 1
            self._show(i, moved.screen)
            rows.append({"lives": game.lives})
            if dones[i]:
                rows[i]["terminal_observation"] = self._stacks[i].copy()
                rows[i]["TimeLimit.truncated"] = moved.truncated
                self._begin(i, rows[i])
        return self._stacks.copy(), np.sign(rewards) if self.options.clip_rewards else rewards, dones, rows

    def _begin(self, i: int, row: dict[str, Any]) -> None:
        """Begins game i's next episode; puts the return and length of a game that is over into its info."""
        game = self.games[i]
        self._show(i, game.begin(), first=True)
        if game.finished is not None:
            elapsed = round(time.time() - self._start, 6)
            row["episode"] = {"r": game.finished, "l": int(self._lengths[i]), "t": elapsed}
            self._lengths[i] = 0

    def _show(self, i: int, screen: np.ndarray, first: bool = False) -> None:
        stack = self._stacks[i]
        if first:
            stack[:] = 0
        else:
            stack[:-1] = stack[1:]
        stack[-1] = self._grey(screen)
        self._screens[i] = screen

    def close(self) -> None:
        """Closes the games."""
        for game in self.games:
            game.ale.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Returns each game's screen in colour, (height, width, 3) bytes; None before the first reset."""
        return list(self._screens)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Returns an attribute of ale-py's environment for each game."""
        return [getattr(self.games[i].ale, attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Raises `NotImplementedError`: the games are ale-py's, and have no attributes to be set."""
        raise NotImplementedError(f"games have no attributes to be set: cannot set {attr_name!r}")

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Raises `NotImplementedError`: the games are ale-py's, and have no methods to be called."""
        raise NotImplementedError(f"games have no methods to be called: cannot call {method_name!r}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Returns False for each game: nothing wraps a single one."""
        return [False for _ in self._get_indices(indices)]


def register_games() -> None:
    """Makes Gymnasium know ale-py's games.

    Raises:
        ModuleNotFoundError: ale-py is not installed.
    """
    gym.register_envs(import_ale())


def record_game(model: BaseAlgorithm, game: str, path: str | Path, *, seed: int = 0, max_steps: int = 2000) -> float:
    """Plays one game with a trained policy and writes it as a video.

    Args:
        model: a model that was trained on `AtariVecEnv`.
        game: the name of the game, in any form that `AtariVecEnv` takes.
        path: the path of the MP4 that is written.
        seed: the seed of the game and of the actions, which are drawn from the policy.
        max_steps: the number of steps after which the video ends; 15 of them are a second of the game.

    Returns:
        The game's true return so far.

    Raises:
        ModuleNotFoundError: ale-py or moviepy is not installed.
    """
    with needed_for("a video"):
        from moviepy import ImageSequenceClip
    env = AtariVecEnv(game, 1, seed=seed, clip_rewards=False)
    observation: Any = env.reset()
    model.set_random_seed(seed)
    screens = list(env.get_images())
    total = 0.0
    for _ in range(max_steps):
        action, _ = model.predict(observation, deterministic=False)
        observation, _, _, infos = env.step(action)
        if "episode" in infos[0]:
            total = infos[0]["episode"]["r"]
            break
        total = env.games[0].total
        screens += env.get_images()
    env.close()
    with tempfile.TemporaryDirectory() as folder, whole_file(path) as partial:
        clip = ImageSequenceClip(screens, fps=_STEPS_A_SECOND)
        clip.write_videofile(f"{folder}/game.mp4", logger=None)
        clip.close()
        shutil.move(f"{folder}/game.mp4", partial)
    return total
