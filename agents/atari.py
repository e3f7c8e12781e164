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

import difflib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from meta.wrappers.vec_env import Indices
from teachenv.files import whole_file

GAMES = ("BeamRider", "Breakout", "UpNDown", "Gravitar")
"""Those of LoT's paper."""

_NOOP, _FIRE, _AFTER_FIRE = 0, 1, 2
_STACK, _SIZE = 4, 84
_STEPS_A_SECOND = 15
"""Steps in a second of a game at its own speed, 60 frames a second, at four frames a step."""


class _Moved(NamedTuple):
    """What a move led to: the screen, (height, width, 3); the reward; whether a life, or the game, ended."""

    screen: np.ndarray
    reward: float
    life_lost: bool
    over: bool
    truncated: bool


class _Game:
    """One game in a thread of its own, and how SB3's wrappers begin its episodes.

    Args:
        rom: The name of the game's ROM.
        screen: The height and width of the game's screen, in pixels.
        lives: True: a lost life ends an episode. False: the end of the game does.
        max_frames: The number of frames after which the game is truncated.
        **options: Options of `ale_py.vector_env.AtariVectorEnv`.

    Attributes:
        lives: The number of lives left.
        over: True if the game is over or truncated.
        total: The game's return so far, hidden moves included.
        finished: The return of the game that was over when the present episode began, if one was.
    """

    def __init__(self, rom: str, screen: tuple[int, int], lives: bool, max_frames: int, **options: Any) -> None:
        # Games are truncated in `recv`: ale-py would leave out the last frame.
        unlimited = {"max_num_frames_per_episode": 2**31 - 1, "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        plain = {"reward_clipping": False, "use_fire_reset": False, "grayscale": False, "stack_num": 1}
        self.ale = _ale("vector_env").AtariVectorEnv(
            rom, 1, img_height=screen[0], img_width=screen[1], num_threads=1, **unlimited, **plain, **options
        )
        names = [action.name for action in self.ale.ale.get_action_set()]
        self.fires = names[_FIRE : _FIRE + 1] == ["FIRE"] and len(names) > _AFTER_FIRE
        self.ends_with_life, self.max_frames = lives, max_frames
        self.lives, self.over = 0, False
        self.total = 0.0
        self.finished: float | None = None

    def send(self, action: int) -> None:
        """Sends an action to the game, whose thread begins to play it."""
        self.ale.send(np.array([action], dtype=np.int64))

    def recv(self) -> _Moved:
        """Waits until the action is played, and returns what it led to."""
        screen, reward, terminated, _, info = self.ale.recv()
        lives = int(info["lives"][0])
        life_lost = self.ends_with_life and 0 < lives < self.lives
        truncated = bool(int(info["episode_frame_number"][0]) >= self.max_frames and not terminated[0])
        self.lives, self.over = lives, bool(terminated[0]) or truncated
        self.total += float(reward[0])
        return _Moved(screen[0, 0], float(reward[0]), life_lost, self.over, truncated)

    def begin(self) -> np.ndarray:
        """Begins an episode, of a new game if the last one is over; returns the screen."""
        self.finished = None
        return self._fire(self._next_life())

    def begin_anew(self, seed: int | None) -> np.ndarray:
        """Begins a new game, whatever became of the last one; returns the screen."""
        return self._fire(self._new_game(seed))

    def _fire(self, screen: np.ndarray) -> np.ndarray:
        for action in (_FIRE, _AFTER_FIRE) if self.fires else ():
            moved = self._hidden(action)
            screen = moved.screen
            # As in SB3, whose wrapper then shows the screen from before this.
            if moved.life_lost or moved.over:
                self._next_life()
        return screen

    def _next_life(self) -> np.ndarray:
        if not self.over:
            screen = self._hidden(_NOOP).screen
            if not self.over:
                return screen
        self.finished = self.total
        return self._new_game()

    def _new_game(self, seed: int | None = None) -> np.ndarray:
        screen, info = self.ale.reset(seed=None if seed is None else np.array([seed]))
        self.lives, self.over, self.total = int(info["lives"][0]), False, 0.0
        first: np.ndarray = screen[0, 0]
        return first

    def _hidden(self, action: int) -> _Moved:
        self.send(action)
        return self.recv()


class AtariVecEnv(VecEnv):
    """Games of one kind, played side by side.

    Observations are (4, 84, 84) bytes, the last four frames in grey, black before an episode's first; actions are the
    game's own (ALE's minimal set). `infos[i]["lives"]` are those left, and `infos[i]["episode"]` tells a finished
    game's true return `r` and length `l` in steps, as SB3's `Monitor` does. `get_images()` are the screens in colour.

    Args:
        game: The name of the game in `ALE/Breakout-v5` or `BreakoutNoFrameskip-v4` ("Breakout"), such a name itself, or
            the name of its ROM ("breakout").
        num_envs: The number of games.
        seed: The seed of the first reset; game i has seed + i.
        lives: True: a lost life ends an episode of the learner. False: the end of the game does.
        clip_rewards: True: the learner gets the sign of the reward. False: the reward itself.
        noop_max: The largest number of idle frames that a game begins with.
        frame_skip: The number of frames that an action lasts.
        max_frames: The number of frames after which a game is truncated.
        sticky: The probability that the last action is repeated instead; 0 in the papers here.
        threads: The number of games that are played at a time; 0: all.

    Raises:
        ImportError: ale-py or OpenCV is not installed.
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
        self.game = rom_name(game)
        self.clip_rewards = clip_rewards
        self._grey = _grey()
        screen = _screen(self.game)
        self.games = [
            _Game(
                self.game,
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
        self._stacks = np.zeros((num_envs, _STACK, _SIZE, _SIZE), dtype=np.uint8)
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
        return self._stacks.copy(), np.sign(rewards) if self.clip_rewards else rewards, dones, rows

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


def rom_name(game: str) -> str:
    """Returns the name of a game's ROM: "UpNDown", "ALE/UpNDown-v5" and "UpNDownNoFrameskip-v4" are "up_n_down".

    Raises:
        ImportError: ale-py is not installed.
        ValueError: an unknown game.
    """
    rom_names = _ale("roms").get_all_rom_ids()
    plain = re.sub(r"(NoFrameskip|Deterministic)?(-ram)?(-v\d+)?$", "", game.removeprefix("ALE/"))
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain).lower()
    if name not in rom_names:
        near = ", ".join(difflib.get_close_matches(name, rom_names)) or ", ".join(rom_name(g) for g in GAMES)
        raise ValueError(f"unknown Atari game {game!r}; known are, for example, {near} (ale_py.roms has them all)")
    return name


def register_games() -> None:
    """Makes Gymnasium know ale-py's games.

    Raises:
        ImportError: ale-py is not installed.
    """
    gym.register_envs(_ale())


def record_game(model: BaseAlgorithm, game: str, path: str | Path, *, seed: int = 0, max_steps: int = 2000) -> float:
    """Plays one game with a trained policy and writes it as a video.

    Args:
        model: A model that was trained on `AtariVecEnv`.
        game: The name of the game, in any form that `AtariVecEnv` takes.
        path: The path of the MP4 that is written.
        seed: The seed of the game and of the actions, which are drawn from the policy.
        max_steps: The number of steps after which the video ends; 15 of them are a second of the game.

    Returns:
        The game's true return so far.

    Raises:
        ImportError: ale-py or moviepy is not installed.
    """
    try:
        from moviepy import ImageSequenceClip
    except ImportError as error:
        raise ImportError("videos need moviepy: pip install 'teachenv[video]'") from error
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


def _screen(rom: str) -> tuple[int, int]:
    """Returns the height and width of a game's screen, in pixels."""
    ale_py = _ale()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(_ale("roms").get_rom_path(rom))
    height, width = ale.getScreenDims()
    return int(height), int(width)


def _grey() -> Any:
    """Returns SB3's function from a screen to a grey frame of 84 × 84 bytes."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Atari needs OpenCV: pip install 'teachenv[atari]'") from error

    def grey(screen: np.ndarray) -> np.ndarray:
        plain = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        return cv2.resize(plain, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)

    return grey


def _ale(module: str | None = None) -> Any:
    try:
        import ale_py
        import ale_py.vector_env
    except ImportError as error:
        raise ImportError("Atari needs ale-py: pip install 'teachenv[atari]'") from error
    return ale_py if module is None else getattr(ale_py, module)
