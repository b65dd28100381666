"""What the comparisons share: parameters, records, and measurements taken in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dvc.utils.flatten import flatten, unflatten

from stages.params import Params, check_params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest


class Row(NamedTuple):
    """A line of the table."""

    what: str
    values: Sequence[float]  # one of each round
    unit: str = ""
    goal: float = 0.0  # what the median has to reach

    def __str__(self) -> str:
        median = statistics.median(self.values)
        numbers = "".join(f"{x:9.4g}" for x in (median, min(self.values), max(self.values)))
        verdict = "reached" if median >= self.goal else "missed"
        goal = f"at least {self.goal}: {verdict}" if self.goal else ""
        return f"  {self.what:<60}{numbers} {self.unit or goal}"


def changed(params: Params, changes: Mapping[str, Any]) -> Params:
    """The parameters with other values for some dotted keys; raises StageError as check_params."""
    return check_params(unflatten(flatten(params.model_dump()) | changes))


def records(params: Params, scratch: Path, name: str) -> tuple[Path, Manifest]:
    """Write records into a new folder of the scratch folder."""
    folder = scratch / name
    folder.mkdir()
    return folder, write_records(params, folder, scratch)


def seconds(action: Callable[[], object]) -> float:
    """The wall time of an action in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compared(
    about: str, actions: Mapping[str, Callable[[], float]], rounds: int, goal: float
) -> list[Row]:
    """Two rows of images a second, as two actions return them, and one of their ratios.

    The actions take turns, so that a slower machine slows both alike; every other round goes
    backwards. A first round warms up and is not kept. The median of the rounds' ratios is less
    disturbed than the ratio of the medians.
    """
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name in list(actions)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(actions[name]())
    rows = [Row(f"{about}: {name}", values[1:], "images/s") for name, values in found.items()]
    ratios = [a / b for a, b in zip(*(row.values for row in rows), strict=True)]
    return [*rows, Row(f"{about}: {' / '.join(found)}", ratios, goal=goal)]
