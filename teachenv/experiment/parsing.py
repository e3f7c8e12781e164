"""The options of a command: a dataclass, parsed by tyro, whose errors become one line."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import io
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields, make_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parsed(options: type[T], program: str, description: str, arguments: Sequence[str]) -> T:
    """The options that a command line gives.

    Args:
        options: a dataclass, with a sentence below each field, which is the option's help; one without a default is an
            argument without a flag.
        program: the command's name in the help.
        description: what the command does, for the help.
        arguments: the command line.

    Raises:
        SystemExit: after `--help`.
        ValueError: an option that there is not, a value that is none of its type, or from the dataclass, about a value.
    """
    import tyro

    texts, hints, described = _sentences(options), get_type_hints(options), []
    for field in fields(options):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        shown: dict[str, Any] = {"help": texts.get(name), "metavar": _values_shown(hint)}
        if field.default is MISSING:
            shown["metavar"] = name.upper()
        elif field.default in (None, ()):
            shown["help_behavior_hint"] = ""  # the sentence says what is done without it
        more = () if field.default is MISSING else (field.default,)
        described.append((name, Annotated[hint, tyro.conf.arg(**shown)], *more))
    # What the parser builds checks nothing: it would put the one line of an error into a box of many.
    plain = make_dataclass(options.__name__, described)
    config = (tyro.conf.PositionalRequiredArgs,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            values: Any = tyro.cli(plain, prog=program, description=description, args=arguments, config=config)
    except SystemExit as end:
        if not end.code:
            raise  # after --help
        point = _unknown(arguments, [name for name, *_ in described]) or _without_box(printed.getvalue())
        raise ValueError(f"{point} (see {program} --help)") from None
    return options(**vars(values))


def _unknown(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """The message about the first option of a command line that there is not; None: there are all."""
    flags = [f"--{name.replace('_', '-')}" for name in names]
    for word in arguments:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag.replace("--no-", "--") not in flags:
            near = difflib.get_close_matches(flag, flags, n=1)
            return f"no option {flag}; did you mean {near[0]}?" if near else f"no option {flag}"
    return None


def _without_box(text: str) -> str:
    """The point of an error of tyro, in one line: what is in its box below the title, up to the first rule."""
    title, *lines = [line.strip(" │") for line in text.splitlines()]
    body = itertools.dropwhile(_is_rule, lines)
    point = itertools.takewhile(lambda line: not _is_rule(line), body)
    return " ".join(point).strip().removeprefix("Error ").removesuffix(".") or title


def _is_rule(line: str) -> bool:
    return set(line) <= {"─", "-", "╰", "╯"}


def _sentences(options: type) -> dict[str, str]:
    """What is written below the fields of a dataclass and of those that it is derived from, each in one line."""
    sentences: dict[str, str] = {}
    for kind in reversed(options.__mro__[:-1]):
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        except OSError:  # a class without a file: of its options the help has the names alone
            continue
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                text = ast.literal_eval(following.value)
                sentences[ast.unparse(statement.target)] = " ".join(text.split())
    return sentences


def _values_shown(hint: Any) -> str | None:
    """How the help shows what an option takes: `INT`, `TEXT ...`, `{a,b}`; None: nothing, of a flag."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, parts))}}}"
    if get_origin(hint) is tuple:
        return f"{_values_shown(parts[0])} ..."
    if parts:  # of a union with None
        return _values_shown(parts[0])
    return None if hint is bool else {str: "TEXT"}.get(hint, hint.__name__.upper())
