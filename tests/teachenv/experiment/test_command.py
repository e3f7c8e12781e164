"""The command `teachenv`: its help, and one line for what it cannot do."""

import pytest

from teachenv.experiment.command import main


def test_the_help_is_of_sentences_and_plain_values(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    told = capsys.readouterr().out
    assert "ENV" in told.splitlines()[0]
    for shown in ("--out PATH", "--workers INT", "--methods TEXT ...", "with as many.", "(default: 3)"):
        assert shown in told
    assert "None" not in told


def test_without_arguments_it_says_what_it_does(capsys) -> None:
    assert main([]) == 0
    assert "teachenv compare TeachDigits-v0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["comprae"], "found 'comprae', expected compare"),
        (["compare", "nowhere:Mine-v0"], "found no module 'nowhere' (of 'nowhere:Mine-v0')"),
        (
            ["compare", "Mine-v0"],
            ", or yours as mypackage:Mine-v0",
        ),
        (["compare", "TeachDigits-v0", "--methods", "nowhere:method"], "found no module 'nowhere'"),
        (["compare", "TeachDigits-v0", "--methods", "rdm"], "did you mean 'rmd'"),
        (["compare", "TeachDigits-v0", "--set", "horizon"], "found 'horizon', expected an option"),
        (["compare", "TeachDigits-v0", "--methods", ","], "methods must be a dictionary of at least one method"),
        (["compare", "TeachDigits-v0", "--set", "budget=3"], "found budget after --set, expected an option of the env"),
        (["compare", "TeachDigits-v0", "--tune", "seeds=3"], "found seeds after --tune, expected an option of the env"),
        (["compare", "TeachDigits-v0", "--set", "horizon=3", "horizon=4"], "found horizon twice after --set, expected"),
        (["compare", "TeachDigits-v0", "--tune", "horizon=3", "horizon=4"], "found horizon twice after --tune"),
        (["compare", "TeachDigits-v0", "--set", "learning_rate=0.1,0.4"], "found 2 values of learning_rate after"),
        (["compare"], " (see teachenv compare --help)"),
        (
            ["compare", "TeachDigits-v0", "--budgt=3"],
            "no option --budgt; did you mean --budget? (see teachenv",
        ),
        (["compare", "--sed", "3", "TeachDigits-v0"], "no option --sed; did you mean --seeds? (see teachenv"),
        (["compare", "TeachDigits-v0", "--xyz"], "no option --xyz (see teachenv compare --help)"),
        (["compare", "TeachDigits-v0", "more"], " (see teachenv compare --help)"),
        (["compare", "TeachDigits-v0", "--seeds", "0"], "seeds must be an integer of at least 1, found 0"),
    ],
)
def test_what_it_cannot_do_is_one_line(arguments, says, capsys) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert says in told
    assert told.count("\n") == 1


FOREIGN = """
import os, sys
sys.stderr = sys.stdout
os.chdir(sys.argv[1])
from teachenv.experiment.command import main, method_named
assert main(["compare", "TeachDigits-v0", "--methods", "ddpg"]) == 2
assert method_named("rmd").learns
"""


def test_another_package_called_agents_is_said_and_others_methods_work(in_new_process, tmp_path):
    (tmp_path / "agents").mkdir()
    for name in ("__init__", "methods"):
        (tmp_path / "agents" / f"{name}.py").touch()
    said = in_new_process(FOREIGN, tmp_path)
    assert said.startswith("error: found no methods in agents.methods:GRIDS: module 'agents.methods' has no attribute ")
    assert f"is in {tmp_path / 'agents'}; expected that of teachenv. " in said
