"""Runs the tutorials and writes their pages, with what they print and draw: `run_tutorials.py [NAME ...]`.

Each runs in a process and a folder of its own. A figure is saved when its cell ends; the name that it was made with,
`plt.figure("what it shows")`, is its description for those who cannot see it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tutorial_pages import FOLDER, cells, signature


def run(name: str) -> None:
    """Runs one tutorial, and writes its page and figures."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    script = FOLDER / f"{name}.py"
    namespace: dict[str, object] = {"__name__": "__main__"}
    page, drawn = [], 0
    for cell in cells(script.read_text(encoding="utf-8")):
        if cell.is_text:
            page.append(cell.content)
            continue
        page.append(f"```python\n{cell.content}\n```")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.parse(cell.content), str(script), "exec"), namespace)
        if printed.getvalue().strip():
            page.append(f'```text title="Output"\n{printed.getvalue().strip()}\n```')
        for figure in map(plt.figure, plt.get_fignums()):
            drawn += 1
            shown = str(figure.get_label())
            if not shown:
                raise ValueError(f'{script.name}: name each figure by what it shows, plt.figure("...") or num="..."')
            file = FOLDER.parent / "images" / "tutorials" / f"{name}-{drawn}.png"
            file.parent.mkdir(exist_ok=True)
            figure.savefig(file, dpi=130, bbox_inches="tight", metadata={"Software": None})
            page.append(f"![{shown}](../images/tutorials/{file.name})")
        plt.close("all")
    page.append(f"The script: [{script.name}]({script.name}). Its outputs and figures are those of a run of it.")
    page.append(signature(script))
    script.with_suffix(".md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the tutorials that are named, or all of them."""
    if "--here" in sys.argv:
        return run(sys.argv[2])
    known = [script.stem for script in sorted(FOLDER.glob("*.py"))]
    for name in sys.argv[1:] or known:
        if name not in known:
            raise SystemExit(f"no tutorial is called {name!r}; there are {', '.join(known)}")
        print(name, flush=True)
        paths = [str(FOLDER.parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, Path(__file__).resolve(), "--here", name], cwd=folder, env=environment, check=True
            )


if __name__ == "__main__":
    main()
