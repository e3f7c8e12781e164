"""The Python snippets of the README and of the docs run as they stand, each in an interpreter's fresh namespace."""

import re
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

from teachenv import LOSSES, STUDENTS
from teachenv.optimizers import OPTIMIZERS
from teachenv.registration import ENVIRONMENTS, RL_ENVIRONMENTS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
IDS = {*ENVIRONMENTS, *RL_ENVIRONMENTS}
ENVIRONMENTS_PAGE = ROOT / "docs" / "environments.md"
# The pages of tutorials are made by running them; a snippet that stands in two places runs once.
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "how-to").glob("*.md")))
SNIPPETS = list(
    dict.fromkeys(
        snippet
        for file in PAGES
        for snippet in re.findall(
            r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
    )
)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 5


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


# What takes minutes or several seconds with the numbers of the text takes less with these.
SHORTER = {
    "teachenv.compare(": {
        "budget=48_000": "budget=12", "seeds=3": "seeds=1", "horizon=60": "horizon=6", "workers=2": 'backend="inline"'
    },
    "label_issues((x": {"rounds=3": "rounds=1, steps=30"},
    "learn(19_200)": {"learn(19_200)": "learn(960)"},
    "OwnTraining(": {"steps=300": "steps=30"},
    "TfidfVectorizer": {"rounds=2": "rounds=1, steps=30"},
    "import SAC": {"learn(480)": "learn(96)", "num_envs=4": "num_envs=4, horizon=5"},
    'get_dummies': {'table["kind"])': 'table["kind"]), rounds=1, repeats=1, steps=30'},
    "TeachCIFAR-v0": {"horizon=5": "horizon=2", "dev_size=200": "dev_size=20"},
    "steps_per_action=5, horizon=100": {"horizon=100": "horizon=20", "learn(20)": "learn(4)"},
    "by_rate = ": {"num_envs=64": "num_envs=2", "(64, 1)": "(2, 1)"},
    "total_timesteps=480": {"total_timesteps=480": "total_timesteps=240"},
    "RecordEpisodeStatistics": {"range(3)": "range(1)"},
    "SuccessiveHalvingPruner": {"n_trials=8": "n_trials=3"},
    "Pruning(BaseCallback)": {"n_trials=4": "n_trials=1"},
    "student_optimizer = ": {"steps=1000": "steps=20"},
    "TeachLanguage-v0": {"horizon=20, steps_per_action=5": "horizon=4, steps_per_action=1"},
    "TeachTranslation-v0": {
        "warm_start=5": "warm_start=1",
        "horizon=10": 'horizon=2, steps_per_action=1, student_kwargs={"width": 16}',
    },
}  # fmt: skip


WHERE_INSTALLED = {"optuna": "optuna", "sb3_contrib": "sb3_contrib", "tensorboard": "tensorboard_log"}
"""Small packages that docs/recipes.md uses and no other code here, with what tells a snippet that needs one."""

BY_HAND = {"lightning", "ray", "tianshou", "torchrl", "wandb"}
"""Large packages of docs/recipes.md, whose snippets were run by hand in the versions that it names."""


def skip_without_its_package(snippet: str) -> None:
    lines = re.findall(r"^(?:import (.*)|from (\w+))", snippet, flags=re.MULTILINE)
    imported = {re.split(r"[. ]", name.strip())[0] for several, one in lines for name in (several or one).split(",")}
    if by_hand := imported & BY_HAND:
        pytest.skip(f"{by_hand} is tried by hand: see docs/recipes.md")
    for package, sign in WHERE_INSTALLED.items():
        if sign in snippet:
            pytest.importorskip(package)


def shortened(snippet: str) -> str:
    for part, numbers in SHORTER.items():
        if part in snippet:
            for text, shorter in numbers.items():
                assert text in snippet
                snippet = snippet.replace(text, shorter)
    return snippet


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: s.splitlines()[-1][:40])
def test_snippet_runs(
    snippet: str,
    undrawn: None,
    few_images: None,
    few_test_sentences: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_without_its_package(snippet)
    monkeypatch.chdir(tmp_path)
    few_test_sentences(monkeypatch)
    for name in {*re.findall(r'"(\w+-v\d+)"', snippet)} - IDS:  # another test may have such an id, too
        monkeypatch.delitem(gym.registry, name, raising=False)
    exec(compile(shortened(snippet), "snippet", "exec"), {"__name__": "readme"})


def test_environment_table_names_every_id() -> None:
    text = ENVIRONMENTS_PAGE.read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `(Teach[^`]*)` \|", text, flags=re.MULTILINE)} == IDS


@pytest.mark.parametrize("argument", ["student", "loss", "optimizer"])
def test_table_of_arguments_names_every_piece(argument: str) -> None:
    registry = {"student": STUDENTS, "loss": LOSSES, "optimizer": OPTIMIZERS}[argument]
    text = ENVIRONMENTS_PAGE.read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{argument}`.*? \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 1
    assert {*re.findall(r'`"([^`"]+)"`', rows[0])} == {*registry}
