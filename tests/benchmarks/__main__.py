"""Compares speeds of training side by side: prints a table with goals, writes benchmarks.json.

The quick form takes about 2 minutes on 2 cores.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from stages.params import load_params
from stages.stage import run_stage
from tests.benchmarks import step_speed, time_to_quality
from tests.benchmarks.measuring import changed

OUTPUT = Path("benchmarks.json")


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    text = "the whole dataset, more rounds, and the notebook's recipe beside the project's"
    parser.add_argument("--full", action="store_true", help=text)
    parser.add_argument("--dataset", help="a TFDS name, such as oxford_iiit_pet; of params.yaml")
    arguments = parser.parse_args()
    params = load_params()
    params = changed(params, {"dataset": arguments.dataset or params.dataset})
    form = "full" if arguments.full else "quick"
    machine = f"{platform.processor()} {platform.machine()}, {os.cpu_count()} cores"
    report: dict[str, Any] = {"form": form, "machine": machine, "params": params.model_dump()}
    print(f"{params.dataset}, {form} form; medians, lowest and highest of the rounds")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        scratch = Path(folder)
        comparisons = {"step_speed": lambda: step_speed.compare(params, scratch, arguments.full)}
        if arguments.full:
            comparisons["time_to_quality"] = lambda: time_to_quality.compare(params, scratch)
        for name, compare in comparisons.items():
            rows = compare()
            print(f"\n{name}", *rows, sep="\n")
            report[name] = [row._asdict() for row in rows]
            # After each one, so that a run that is stopped leaves what it has found.
            OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nAll rounds are in {OUTPUT}")


if __name__ == "__main__":
    run_stage("benchmarks", main)
