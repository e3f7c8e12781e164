"""Which tests are those of a changed file."""

from pathlib import Path

import pytest

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
