"""A Validator's task: read what the jobs it depends on wrote, and judge it. Standard library and HTTP only.

The command worker tells a program where it is: AURA_URL (the gateway), AURA_JOB_ID (its own job), AURA_SEQ (the sequence of its
claim; ``?min_seq=`` makes sure that the answer has seen at least that).
"""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from chart_code import count

URL, JOB, SEQ = os.environ["AURA_URL"], os.environ["AURA_JOB_ID"], os.environ["AURA_SEQ"]


def get(path: str, accept: str = "application/json") -> str:
    request = urllib.request.Request(URL + path, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def judge(name: str, text: str) -> str:
    """What is wrong with an output; empty when it is right."""
    if name == "lint":
        return "" if "lint: passed" in text else "the linter did not pass"
    if name == "tests":
        summary = re.search(r"(\d+) passed", text)
        return "" if summary and " failed" not in text else "no tests passed, or some failed"
    if name == "chart":
        total = re.search(r"total: (\d+) lines in (\d+) files", text)
        lines, files = count(Path("aura"))
        mine = (str(sum(lines.values())), str(files))
        return "" if total and total.groups() == mine else f"counted again: {mine[0]} lines in {mine[1]} files"
    return "nobody told me how to judge this"


wrong = 0
for dependency in json.loads(get(f"/jobs/{JOB}?min_seq={SEQ}"))["depends_on"]:
    job = json.loads(get(f"/jobs/{dependency}"))
    text = get(f"/jobs/{dependency}/output", "text/plain")
    complaint = judge(job["name"], text) if job["status"] == "COMPLETED" else f"it is {job['status']}"
    print(
        f"{'✘' if complaint else '✔'} {job['name']:<8} {len(text):>7} characters  {complaint or 'as it should be'}",
        flush=True,
    )
    wrong += bool(complaint)
print("verdict:", "rejected" if wrong else "accepted")
sys.exit(1 if wrong else 0)
