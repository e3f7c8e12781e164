import json
import shutil
import subprocess

import numpy as np
import pytest

from teachenv.experiment.provenance import git_commit, versions


def test_versions_name_every_library_that_shapes_a_result():
    found = versions()
    assert set(found) == {"python", "torch", "gymnasium", "stable-baselines3", "numpy", "teachenv"}
    assert found["numpy"] == np.__version__
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def work_tree(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments], check=True
        )

    (tmp_path / "code.py").write_text("1")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", "first")
    git_commit.cache_clear()
    yield tmp_path
    git_commit.cache_clear()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_git_commit_is_the_hash_of_a_clean_tree(work_tree):
    head = subprocess.check_output(["git", "-C", work_tree, "rev-parse", "HEAD"], text=True).strip()
    (work_tree / "benchmarks" / "results" / "results.jsonl").write_text("a result is no change of the code")
    assert git_commit(work_tree) == head


@needs_git
@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_git_commit_tells_that_the_tree_has_changes(work_tree, name):
    (work_tree / name).write_text("2")
    assert git_commit(work_tree).endswith("-dirty")


@needs_git
def test_git_commit_is_not_that_of_a_repository_around_the_code(work_tree):
    assert git_commit(work_tree / "benchmarks") == "unknown"


def test_git_commit_is_unknown_outside_a_work_tree(tmp_path):
    assert git_commit(tmp_path) == "unknown"
    assert git_commit(tmp_path / "missing") == "unknown"
