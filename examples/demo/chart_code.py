"""Count the lines of code of each package and draw them. Usage: chart_code.py FOLDER. Ends with "total: n lines in m files"."""

import sys
from collections import Counter
from pathlib import Path

WIDTH = 48


def count(folder: Path) -> tuple[Counter[str], int]:
    """Lines that are neither blank nor only a comment, by package, and the number of files."""
    lines: Counter[str] = Counter()
    files = 0
    for path in sorted(folder.rglob("*.py")):
        package = path.relative_to(folder).parts[0] if path.parent != folder else "(top)"
        text = path.read_text("utf-8").splitlines()
        lines[package] += sum(1 for line in text if line.strip() and not line.lstrip().startswith("#"))
        files += 1
    return lines, files


if __name__ == "__main__":
    lines, files = count(Path(sys.argv[1]))
    longest = max(lines.values(), default=1)
    for package, number in lines.most_common():
        print(f"{package:>14} {'█' * round(WIDTH * number / longest) or '▏'} {number}", flush=True)
    print(f"total: {sum(lines.values())} lines in {files} files")
