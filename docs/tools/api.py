"""The pages of the API reference: one for each public name, found in the source without importing it.

A name is public if a module's `__all__` has it. A name that several modules have (`meta.RMD`, `meta.teachers.RMD`) has
one page, under the first of them in the order of `modules`; the others link to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import griffe

PACKAGES = ("teachenv", "meta", "agents")
FIRST = ("teachenv", "teachenv.experiment", "meta", "agents")
# Modules without `__all__` that are shown whole, on one page each.
WHOLE = (
    "teachenv.samples",
    "teachenv.schedules",
    "teachenv.teacher",
    "meta.methods",
    "agents.methods",
    "agents.base",
    "agents.replay",
)


@dataclass(frozen=True)
class Name:
    """A public name.

    Attributes:
        module: the first module that has it, such as `"meta"`.
        name: the name itself.
        target: where it is defined, such as `"meta.teachers.gradient.RMD"`.
        summary: the first sentence of its docstring, or nothing.
        kind: `"class"`, `"function"`, `"attribute"` or `"module"`.
        file: the source file, relative to the repository.
    """

    module: str
    name: str
    target: str
    summary: str
    kind: str
    file: str

    @property
    def page(self) -> str:
        """The page in the documentation; kinds keep `hypergradient` and `Hypergradient` apart on every file system."""
        if self.kind == "module":
            return f"api/{self.target}/index.md"
        kind = "" if self.kind == "class" else f"-{self.kind}"
        return f"api/{self.module}/{self.name}{kind}.md"


@dataclass(frozen=True)
class Reference:
    """All of the API reference.

    Attributes:
        names: of each module with `__all__`, its names in the order of `__all__`.
        docstrings: the first line of each module's docstring.
        anchors: of each module that is shown whole, the names that its page has headings for.
    """

    names: dict[str, list[Name]]
    docstrings: dict[str, str]
    anchors: dict[str, list[str]]

    def own(self, module: str) -> list[Name]:
        """The names that have their page under this module."""
        return [name for name in self.names[module] if name.module == module and name.kind != "module"]

    def pages(self) -> dict[str, str]:
        """The source of each page, in Markdown, by its path."""
        pages = {"api/index.md": self._index()}
        for module in self.names:
            pages[f"api/{module}/index.md"] = self._module(module)
            pages |= {name.page: _page(name) for name in self.own(module)}
        return pages

    def nav(self) -> list[object]:
        """The API reference's part of the navigation."""
        modules = [
            {module: [f"api/{module}/index.md", *({name.name: name.page} for name in self.own(module))]}
            for module in self.names
        ]
        return ["api/index.md", *modules]

    def links(self) -> dict[str, tuple[str, str]]:
        """The page of each dotted name that a reader can write, and the place in it.

        `"meta.RMD"`, `"meta.teachers.RMD"`, `"meta.teachers.gradient.RMD"` and `"meta.teachers"` are such names.
        """
        links = {module: (f"api/{module}/index.md", "") for module in self.names}
        for module, names in self.names.items():
            links |= {f"{module}.{name.name}": (name.page, "") for name in names}
            links |= {name.target: (name.page, "") for name in names if name.kind != "module"}
        for module, members in self.anchors.items():
            links |= {f"{module}.{member}": (f"api/{module}/index.md", f"#{module}.{member}") for member in members}
        return links

    def _index(self) -> str:
        rows = [f"| [`{module}`]({module}/index.md) | {self.docstrings[module]} |" for module in self.names]
        return "\n".join(
            [
                "# API reference",
                "",
                "A page for each public name, from its docstring. Most users need only `teachenv`, `meta`, `agents`.",
                "",
                "| module | what it has |",
                "|---|---|",
                *rows,
            ]
        )

    def _module(self, module: str) -> str:
        if not self.names[module]:
            return f"::: {module}\n    options:\n      show_root_full_path: true\n"
        rows = [
            f"| [`{name.name}`](../../{name.page}) | {name.kind} | {name.summary} |".replace("../../api/", "../")
            for name in self.names[module]
        ]
        head = [f"::: {module}", "    options:", "      members: false", "      show_root_full_path: true", ""]
        return "\n".join([*head, "| name | kind | what it is |", "|---|---|---|", *rows])


def read(root: Path) -> Reference:
    """Reads the public names of the packages below a folder.

    Raises:
        ValueError: an `__all__` names what its module does not have.
    """
    loader = griffe.GriffeLoader(search_paths=[root], docstring_parser=griffe.Parser("google"))
    for package in PACKAGES:
        loader.load(package)
    loader.resolve_aliases()
    collection = loader.modules_collection
    found = [module for package in PACKAGES for module in _modules(collection[package]) if module.exports]
    paths = [*FIRST, *(module.path for module in found if module.path not in FIRST), *WHOLE]
    seen: dict[str, Name] = {}
    names: dict[str, list[Name]] = {}
    for path in paths:
        module = collection[path]
        exported = [] if path in WHOLE else [str(name) for name in module.exports or ()]
        names[path] = [_name(collection, module, name, root, seen) for name in sorted(exported, key=str.casefold)]
    anchors = {
        path: [member.name for member in collection[path].members.values() if not member.is_alias and member.is_public]
        for path in WHOLE
    }
    return Reference(names, {path: _summary(collection[path]) for path in paths}, anchors)


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for member in module.modules.values():
        if not member.is_alias and not member.name.startswith("_"):
            yield from _modules(member)


def _name(
    collection: griffe.ModulesCollection, module: griffe.Module, name: str, root: Path, seen: dict[str, Name]
) -> Name:
    # Where an import takes it from comes before a submodule of its name: `meta.influence` is the function.
    target = _definition(collection, f"{module.path}.{name}")
    if target is None:
        raise ValueError(f"{module.path}.__all__ has {name!r}, which the module has not: import it there, or drop it")
    if target.path not in seen:
        file = Path(target.filepath).relative_to(root).as_posix()  # type: ignore[arg-type]
        seen[target.path] = Name(module.path, name, target.path, _summary(target), target.kind.value, file)
    return seen[target.path]


def _definition(collection: griffe.ModulesCollection, path: str) -> griffe.Object | None:
    """Follows imports from a dotted name to where it is defined."""
    parent, _, name = path.rpartition(".")
    try:
        imported = collection[parent].imports.get(name, path) if parent else path
        if imported != path:
            return _definition(collection, imported)
        found = collection[path]
    except (KeyError, griffe.AliasResolutionError):
        return None
    return found.final_target if found.is_alias else found


def _summary(item: griffe.Object) -> str:
    text = item.docstring.value.strip() if item.docstring else ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _page(name: Name) -> str:
    source = f"[{name.file}]({'../' * 3}{name.file})"
    how = f"`from {name.module} import {name.name}`"
    return f"{how} · source: {source}\n\n::: {name.target}\n    options:\n      heading: {name.name}\n"
