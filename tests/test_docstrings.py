"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import agents
import meta
import teachenv

MODULES = [
    importlib.import_module(found.name)
    for package in (teachenv, meta, agents)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
EXAMPLES = [
    example for module in MODULES for example in doctest.DocTestFinder().find(module) if example.examples
]  # of each module its own objects only


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_runs(example: doctest.DocTest) -> None:
    said: list[str] = []
    result = doctest.DocTestRunner().run(example, out=said.append)
    assert result.failed == 0, "".join(said)
