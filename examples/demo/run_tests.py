"""Run a fast part of this checkout's own tests. Ends with pytest's summary line, or with what was done instead."""

import importlib.util
import subprocess
import sys
from pathlib import Path

FAST = [folder for folder in ("tests/unit/domain", "tests/unit/events") if list(Path(folder).glob("test_*.py"))]

if importlib.util.find_spec("pytest"):
    options = ["-p", "no:cacheprovider", "--timeout=120", "-q", "--color=no"]
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", *options, *FAST]).returncode)

print("pytest is not installed: importing every module instead", flush=True)
import pkgutil  # noqa: E402

import aura  # noqa: E402

names = [found.name for found in pkgutil.walk_packages(aura.__path__, "aura.") if not found.name.endswith("__main__")]
for name in names:
    print(f"import {name}", flush=True)
    __import__(name)
print(f"{len(names)} passed")
