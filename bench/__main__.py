"""``python -m bench [SCENARIO…] [--json FILE] [--quick]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import uvloop

from bench import machine, scenarios, servers
from bench.bench import Bench, Scenario
from bench.figures import table
from bench.machine import say


def _arguments() -> argparse.Namespace:
    about = "Measure Aura against baselines of the same run. Nothing fails because of time: read the verdicts."
    parser = argparse.ArgumentParser(prog="python -m bench", description=about)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios.names())}; without: all")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repeats")
    parser.add_argument(
        "--folder", type=Path, help="where servers keep their data meanwhile (default: the temp folder)"
    )
    return parser.parse_args()


async def _await(scenario: Scenario, bench: Bench) -> None:
    await scenario.run(bench)


def main() -> None:
    """Run the scenarios one after the other. Exit status 1 only when one of them broke, never because it was slow."""
    args = _arguments()
    try:
        chosen = scenarios.load(args.scenario)
    except KeyError as error:
        sys.exit(f"no scenario {error}; there are {', '.join(scenarios.names())}")
    broken: dict[str, str] = {}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="aura-bench-", dir=args.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        facts = machine.describe(folder)
        print(machine.text(facts), flush=True)
        for scenario in chosen:
            say(f"  {scenario.name} …")
            bench = Bench(quick=args.quick, folder=folder)
            began = time.perf_counter()
            try:
                uvloop.run(_await(scenario, bench))
            except Exception as error:  # noqa: BLE001 - a broken scenario must not take the others with it
                traceback.print_exc()
                broken[scenario.name] = f"{type(error).__name__}: {error}"
            taken = time.perf_counter() - began
            if bench.figures:
                print(table(f"{scenario.name}: {scenario.about}  ({taken:.0f} s)", bench.figures), flush=True)
            found = [figure.to_json() for figure in bench.figures]
            results.append({"scenario": scenario.name, "about": scenario.about, "seconds": taken, "figures": found})
    if args.json:
        servers.dump(args.json, {"machine": facts, "quick": args.quick, "results": results, "broken": broken})
    missed = [figure["name"] for result in results for figure in result["figures"] if figure["verdict"] == "misses"]
    print(f"\n{len(missed)} figures miss their target" + (": " + "; ".join(missed) if missed else ""))
    for scenario_name, why in broken.items():
        print(f"BROKEN {scenario_name}: {why}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
