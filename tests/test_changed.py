"""Which tests are those of a changed file."""

from pathlib import Path

import pytest

from tests.changed import PACKAGES, ROOT
from tests.changed import tests_of as files_of


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("teachenv/env.py", ["tests/teachenv/test_env.py"]),
        ("teachenv/experiment/rows.py", ["tests/teachenv/experiment/test_rows.py"]),
        ("tests/teachenv/test_env.py", ["tests/teachenv/test_env.py"]),
        ("tests/conftest.py", []),
    ],
)
def test_a_module_has_the_tests_of_its_name(changed, tests):
    assert files_of(Path(changed)) == [Path(test) for test in tests]


def test_a_module_without_tests_of_its_name_has_those_that_import_it():
    tests = files_of(Path("teachenv/mapping.py"))
    assert Path("tests/teachenv/test_dynamics.py") in tests
    assert Path("tests/teachenv/test_trees.py") not in tests


def test_a_piece_of_a_registry_has_the_contracts_of_its_kind():
    for kind, piece in (
        ("losses", "class_weights"),
        ("optimizers", "rmsprop"),
        ("students", "mlp_mixer"),
        ("tasks", "wine"),
    ):
        assert Path(f"tests/contracts/test_{kind}.py") in files_of(Path(f"teachenv/{kind}/{piece}.py"))


def test_every_module_has_tests():
    for package in PACKAGES:
        for module in (ROOT / package).rglob("*.py"):
            assert files_of(module.relative_to(ROOT)), module
