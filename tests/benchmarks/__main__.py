"""Compares speeds side by side: prints a table with the goals and writes benchmarks.json.

The quick form is built for about 3 minutes on 2 cores. Each comparison has a process of its own.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.params import load_params
from stages.run_record import PACKAGES
from stages.stage import StageError, run_stage
from tests.benchmarks.setting import Setting, changed, compare, obstacle, parsed_changes, run_alone
from tests.benchmarks.timing import Row

COMPARISONS = (
    "step_speed",
    "input_pipeline",
    "prepare_rate",
    "evaluation_pass",
    "time_to_quality",
)


def main() -> None:
    """Runs the comparisons that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("comparisons", nargs="*", help=f"of {', '.join(COMPARISONS)}; all of them")
    parser.add_argument("--full", action="store_true", help="the whole dataset, and more rounds")
    parser.add_argument("--dataset", help="a TFDS name, such as oxford_iiit_pet; of params.yaml")
    parser.add_argument(
        "-S", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="a parameter with another value than in params.yaml",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    arguments = parser.parse_args()
    if unknown := set(arguments.comparisons) - set(COMPARISONS):
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}")
    os.environ["TQDM_DISABLE"] = "1"  # for the processes of the comparisons
    changes = parsed_changes(arguments.changes)
    if arguments.dataset:
        changes["dataset"] = arguments.dataset
    params = changed(load_params(), changes)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "form": "full" if arguments.full else "quick",
        "dataset": params.dataset,
        "machine": machine(),
        "params": params.model_dump(),
        "comparisons": {},
    }
    print(
        f"{params.dataset}, {report['form']} form, {report['machine']['cores']} cores"
        f" ({report['machine']['processor']}); medians, lowest and highest of the rounds"
    )
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        setting = Setting(params, changes, arguments.full, Path(scratch))
        for name in arguments.comparisons or COMPARISONS:
            report["comparisons"][name] = found = _run(name, setting)
            print(f"\n{name}, {found['seconds']:.0f} s")
            print(f"  left out: {found['left_out']}" if "left_out" in found else found.pop("table"))
            # After each one, so that a run that is stopped leaves what it has found.
            arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nAll rounds are in {arguments.output}")


def _run(name: str, setting: Setting) -> dict[str, Any]:
    if reason := obstacle(name, setting):
        return {"seconds": 0.0, "left_out": reason}
    start = time.perf_counter()
    try:
        result = run_alone(compare, name, setting)
    except StageError as error:
        return {"seconds": time.perf_counter() - start, "left_out": str(error)}
    return {
        "seconds": time.perf_counter() - start,
        "rows": [row.record() for row in result.rows],
        "details": result.details,
        "table": table(result.rows),
    }


def table(rows: list[Row]) -> str:
    """The rows as plain text, a line each."""
    cells: list[tuple[str, ...]] = [("", "median", "lowest", "highest", "", "goal", "")]
    for row in rows:
        reached = {True: "reached", False: "missed", None: ""}[row.reached]
        numbers = (row.median, min(row.values), max(row.values))
        cells.append((row.what, *map(_number, numbers), row.unit, row.goal, reached))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        parts = [
            cell.rjust(width) if 1 <= index <= 3 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(parts)}".rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.4g}"


def machine() -> dict[str, Any]:
    """The class of this machine and the versions of what decides the speed."""
    installed = {
        each.metadata["Name"].lower().replace("_", "-") for each in metadata.distributions()
    }
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES if name in installed},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    run_stage("benchmarks", main)
