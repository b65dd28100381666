"""Measurements taken in turn, so that a machine that slows down slows all of them alike."""

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Row(NamedTuple):
    """One line of the table."""

    what: str
    values: Sequence[float]  # one of each round
    unit: str = ""
    goal: str = ""  # ">= 0.95" or "<= 1.1"; empty where there is none

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return {">=": operator.ge, "<=": operator.le}[sign](self.median, float(bound))

    def record(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "values": list(self.values),
            "goal": self.goal,
            "reached": self.reached,
        }


class Result(NamedTuple):
    """What a comparison found."""

    rows: list[Row]
    details: dict[str, Any]  # for the JSON alone


def interleaved(actions: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Runs actions in turn.

    A first round warms up (functions are traced, files come into memory) and is not kept. Every
    other round goes backwards, so that no action always follows the same one.

    Args:
        actions: What is run, by name; each returns its own measurement.
        rounds: How many rounds are kept.

    Returns:
        The measurements of each action, in the order of the rounds.
    """
    found: dict[str, list[T]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        names = list(actions) if number % 2 == 0 else list(actions)[::-1]
        for name in names:
            measurement = actions[name]()
            if number:
                found[name].append(measurement)
    return found


def seconds(action: Callable[[], object]) -> float:
    """The wall time of an action in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each round; its median is less disturbed than the ratio of the medians."""
    return [over / under for over, under in zip(numerators, denominators, strict=True)]


def pair(
    found: Mapping[str, Sequence[float]],
    names: tuple[str, str],
    unit: str,
    goal: str = "",
    about: str = "",
) -> list[Row]:
    """Three rows: two measurements and the ratio of the first to the second.

    Args:
        found: Measurements by name.
        names: The two of them.
        unit: The unit of both.
        goal: The ratio's goal.
        about: What stands before each name.
    """
    over, under = names
    return [
        Row(about + over, found[over], unit),
        Row(about + under, found[under], unit),
        Row(f"{about}{over} / {under}", ratios(found[over], found[under]), "", goal),
    ]
