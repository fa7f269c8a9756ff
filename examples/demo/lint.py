"""Lint this checkout: with ruff where it is installed, else see that every module compiles. Ends with "lint: passed"."""

import compileall
import importlib.util
import subprocess
import sys

FOLDERS = ["aura", "examples"]

if importlib.util.find_spec("ruff"):
    print("ruff check", *FOLDERS, flush=True)
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", *FOLDERS])
    passed = done.returncode == 0
else:
    print("ruff is not installed: compiling instead", flush=True)
    passed = all(compileall.compile_dir(folder, quiet=1, force=True, workers=1) for folder in FOLDERS)

print(f"lint: {'passed' if passed else 'failed'}")
sys.exit(0 if passed else 1)
