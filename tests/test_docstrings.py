"""Docstrings have one dialect, and their examples run and print what they say."""

import dataclasses
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import agents
import meta
import teachenv
from teachenv.optimizers import OPTIMIZERS

ROOT = Path(__file__).parent.parent
MODULES = [
    importlib.import_module(module.name)
    for package in (teachenv, meta, agents)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
EXAMPLES = [
    example for module in MODULES for example in doctest.DocTestFinder().find(module) if example.examples
]  # of each module its own objects only


def test_names_stand_in_single_backticks() -> None:
    files = [
        file for package in ("teachenv", "meta", "agents", "benchmarks") for file in (ROOT / package).rglob("*.py")
    ]
    assert len(files) > 100
    assert [str(file) for file in files if "``" in file.read_text(encoding="utf-8")] == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_runs(example: doctest.DocTest) -> None:
    said: list[str] = []
    result = doctest.DocTestRunner().run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def test_settings_describe_each_option_once_and_no_other() -> None:
    described = re.findall(r"^        (\w+): ", teachenv.Settings.__doc__ or "", flags=re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(teachenv.Settings)]


def test_settings_name_the_options_of_each_optimizer() -> None:
    entries = re.split(r"^        (\w+): ", teachenv.Settings.__doc__ or "", flags=re.MULTILINE)
    described = dict(zip(entries[1::2], entries[2::2], strict=True))["optimizer_kwargs"]
    options = {option for entry in OPTIMIZERS.values() for option in entry.options}
    assert set(re.findall(r"`(\w+)`", described)) == options
