import re
from pathlib import Path

import pytest

from teachenv.optional import EXTRAS, needed_for

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

# What begins to work with each package; the rest of the library has to work without any of them.
WITHOUT = """
import sys
from teachenv.optional import EXTRAS
for name in (*EXTRAS, "sklearn"):
    sys.modules[name] = None  # as if it were not installed

import gymnasium as gym, numpy as np
import teachenv, meta, agents
from agents import atari, atari_game
from meta.distillation.text import TextClassifier
from teachenv.data.vocabulary import pieces_of
from teachenv.experiment.backends import make_backend

uses = {
    "ale_py": atari.register_games,
    "cv2": atari_game.grey_frames,
    "moviepy": lambda: atari.record_game(None, "Pong", "pong.mp4"),
    "pandas": meta.Attribution(np.zeros((2, 3)), np.zeros(2), 1, 8, "states", 1, 16, 8, 0).to_frame,
    "pycocotools": lambda: gym.make("TeachDetection-v0"),
    "ray": lambda: make_backend("ray"),
    "sacrebleu": lambda: gym.make("TeachTranslation-v0"),
    "tokenizers": lambda: pieces_of(["a"], 100),
    "transformers": lambda: TextClassifier("folder", 2),
}
assert uses.keys() == EXTRAS.keys()
for name, use in uses.items():
    try:
        use()
    except ImportError as error:
        print(name, error, sep="|")
for name in ("TeachDigits-v0", "TeachWine-v0"):
    env = gym.make(name, horizon=1)
    env.reset(seed=0)
    print(name, env.step(env.action_space.sample())[2], sep="|")
"""


@pytest.mark.parametrize(("package", "extra"), EXTRAS.values())
def test_each_extra_installs_its_package(package, extra):
    requirements = re.search(rf"^{extra} = \[(.*?)\](?: #.*)?$", PYPROJECT, flags=re.MULTILINE | re.DOTALL)
    assert requirements is not None
    assert f'"{package}>=' in requirements[1]


def test_the_page_on_installing_lists_each_extra_with_its_packages():
    section = PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\n[tool")[0]
    extras = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == sorted(extras)


def test_each_missing_package_is_said_where_its_part_begins_to_work_and_the_rest_works(in_new_process):
    said = dict(line.split("|") for line in in_new_process(WITHOUT).splitlines())
    assert said.pop("TeachDigits-v0") == said.pop("TeachWine-v0") == "True"
    assert said.keys() == EXTRAS.keys()
    for name, (package, extra) in EXTRAS.items():
        purpose, needs, rest = said[name].partition(" needs ")
        assert purpose
        assert needs
        assert rest == f"{package}, which is not installed: pip install 'teachenv[{extra}]'"


def test_what_is_no_extra_is_told_as_python_does():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_package'$"), needed_for("nothing"):
        import no_such_package  # noqa: F401
