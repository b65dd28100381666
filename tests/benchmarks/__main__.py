"""Compares speeds side by side: prints a table with the goals and writes benchmarks.json.

The quick form takes about 3 minutes on 2 cores. Each comparison has a process of its own.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from stages.params import load_params
from stages.stage import StageError, run_stage
from tests.benchmarks.measuring import Row, Setting, changed, compare, run_alone

OUTPUT = Path("benchmarks.json")
COMPARISONS = ("step_speed", "input_pipeline", "prepare_rate", "time_to_quality")


def main() -> None:
    """Run the comparisons that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("comparisons", nargs="*", help=f"of {', '.join(COMPARISONS)}; all of them")
    parser.add_argument("--full", action="store_true", help="the whole dataset, and more rounds")
    parser.add_argument("--dataset", help="a TFDS name, such as oxford_iiit_pet; of params.yaml")
    arguments = parser.parse_args()
    if unknown := set(arguments.comparisons) - set(COMPARISONS):
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}")
    os.environ["TQDM_DISABLE"] = "1"  # for the processes of the comparisons
    params = load_params()
    params = changed(params, {"dataset": arguments.dataset or params.dataset})
    form = "full" if arguments.full else "quick"
    machine = f"{platform.processor()} {platform.machine()}, {os.cpu_count()} cores"
    report: dict[str, Any] = {"form": form, "machine": machine, "params": params.model_dump()}
    print(f"{params.dataset}, {form} form; medians, lowest and highest of the rounds")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        setting = Setting(params, arguments.full, Path(scratch))
        for name in arguments.comparisons or COMPARISONS:
            print(f"\n{name}")
            try:
                rows = run_alone(compare, name, setting)
            except StageError as error:
                print(f"  left out: {error}")
                continue
            print(*map(line, rows), sep="\n")
            report[name] = [row._asdict() for row in rows]
            # After each one, so that a run that is stopped leaves what it has found.
            OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nAll rounds are in {OUTPUT}")


def line(row: Row) -> str:
    """A row as plain text."""
    shown = statistics.median(row.values), min(row.values), max(row.values)
    numbers = "".join(f"{number:9.4g}" for number in shown)
    return f"  {row.what:<60}{numbers} {row.unit:<9}{row.goal:<9}{row.verdict}".rstrip()


if __name__ == "__main__":
    run_stage("benchmarks", main)
