"""One Atari game in a thread of its own, played by ale-py, and how SB3's wrappers begin its episodes.

Everything that needs ale-py or OpenCV, which come with the extra `atari`, is imported here at its first use.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from teachenv.optional import needed_for

GAMES = ("BeamRider", "Breakout", "UpNDown", "Gravitar")
"""The games of LoT's paper (Jin et al. 2024)."""

SIZE = 84
"""Height and width of the grey frames that the learner sees, in pixels."""

_NOOP, _FIRE, _AFTER_FIRE = 0, 1, 2


class Moved(NamedTuple):
    """What a move led to: the screen, (height, width, 3); the reward; whether a life, or the game, ended."""

    screen: np.ndarray
    reward: float
    life_lost: bool
    over: bool
    truncated: bool


class Game:
    """One game in a thread of its own, and how SB3's wrappers begin its episodes.

    Args:
        rom: the name of the game's ROM.
        screen: the height and width of the game's screen, in pixels.
        lives: True: a lost life ends an episode. False: the end of the game does.
        max_frames: the number of frames after which the game is truncated.
        **options: options of `ale_py.vector_env.AtariVectorEnv`.

    Attributes:
        lives: the number of lives left.
        over: True if the game is over or truncated.
        total: the game's return so far, hidden moves included.
        finished: the return of the game that was over when the present episode began, if one was.
    """

    def __init__(self, rom: str, screen: tuple[int, int], lives: bool, max_frames: int, **options: Any) -> None:
        # Games are truncated in `recv`: ale-py would leave out the last frame.
        unlimited = {"max_num_frames_per_episode": 2**31 - 1, "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        plain = {"reward_clipping": False, "use_fire_reset": False, "grayscale": False, "stack_num": 1}
        self.ale = import_ale("vector_env").AtariVectorEnv(
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

    def recv(self) -> Moved:
        """Waits until the action is played, and returns what it led to."""
        screen, reward, terminated, _, info = self.ale.recv()
        lives = int(info["lives"][0])
        life_lost = self.ends_with_life and 0 < lives < self.lives
        truncated = bool(int(info["episode_frame_number"][0]) >= self.max_frames and not terminated[0])
        self.lives, self.over = lives, bool(terminated[0]) or truncated
        self.total += float(reward[0])
        return Moved(screen[0, 0], float(reward[0]), life_lost, self.over, truncated)

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

    def _hidden(self, action: int) -> Moved:
        self.send(action)
        return self.recv()


def rom_name(game: str) -> str:
    """Returns the name of a game's ROM: "UpNDown", "ALE/UpNDown-v5" and "UpNDownNoFrameskip-v4" are "up_n_down".

    Raises:
        ModuleNotFoundError: ale-py is not installed.
        ValueError: an unknown game.
    """
    rom_names = import_ale("roms").get_all_rom_ids()
    plain = re.sub(r"(NoFrameskip|Deterministic)?(-ram)?(-v\d+)?$", "", game.removeprefix("ALE/"))
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain).lower()
    if name not in rom_names:
        near = ", ".join(difflib.get_close_matches(name, rom_names)) or ", ".join(rom_name(g) for g in GAMES)
        raise ValueError(f"unknown Atari game {game!r}; known are, for example, {near} (ale_py.roms has them all)")
    return name


def screen_size(rom: str) -> tuple[int, int]:
    """Returns the height and width of a game's screen, in pixels."""
    ale_py = import_ale()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(import_ale("roms").get_rom_path(rom))
    height, width = ale.getScreenDims()
    return int(height), int(width)


def grey_frames() -> Any:
    """Returns SB3's function from a screen to a grey frame of 84 × 84 bytes."""
    with needed_for("an Atari game"):
        import cv2

    def grey(screen: np.ndarray) -> np.ndarray:
        plain = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        return cv2.resize(plain, (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    return grey


def import_ale(module: str | None = None) -> Any:
    """Imports ale-py, or a module of it.

    Args:
        module: the name of the module in the package; None: the package itself.

    Raises:
        ModuleNotFoundError: ale-py is not installed.
    """
    with needed_for("an Atari game"):
        import ale_py
        import ale_py.vector_env
    return ale_py if module is None else getattr(ale_py, module)
