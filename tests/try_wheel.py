"""Runs README's first Python example with the installed package, in an empty folder; `make wheel` installs it.

    python -I tests/try_wheel.py

With `-I` neither this folder nor the working folder is searched for modules: what is imported is what was installed.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Tries imports, the command and the example.

    Raises:
        SystemExit: the packages are not those that were installed, or one is there that should not be.
    """
    began = time.perf_counter()
    import agents
    import meta
    import teachenv

    print(f"import teachenv, meta, agents: {time.perf_counter() - began:.1f} s, {len(sys.modules)} modules")
    for package in (teachenv, meta, agents):
        if Path(str(package.__file__)).is_relative_to(ROOT) and "site-packages" not in str(package.__file__):
            sys.exit(f"error: found {package.__file__}, expected an installed package; start this with python -I")
    if importlib.util.find_spec("benchmarks"):
        sys.exit("error: found the package benchmarks, expected a wheel without it")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([Path(sys.executable).parent / "teachenv", "--help"], check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        exec(compile(examples[0], "README.md", "exec"), {"__name__": "__main__"})
        print(f"README's first example: {time.perf_counter() - began:.1f} s")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
