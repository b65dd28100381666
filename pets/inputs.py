"""The pictures that a command line names, and the names of what is made of them."""

import glob
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pets.photograph import SUFFIXES

STANDARD_INPUT = "-"
# A file's name may have 255 bytes, and an output's ending is short.
_STEM_BYTES = 200
_FORBIDDEN = frozenset('<>:"/\\|?*')  # in file names of Windows


class Input(NamedTuple):
    """One picture to predict."""

    name: str  # as messages name it
    path: Path | None  # None is standard input
    stem: str  # of its outputs' names: no other input has it


class Problem(NamedTuple):
    """What cannot be predicted, and why."""

    name: str
    reason: str


def find_inputs(arguments: Sequence[str], outputs: Path) -> tuple[list[Input], list[Problem]]:
    """The pictures that arguments name, each once, and what they name that is not there.

    Args:
        arguments: Files; folders, searched with their subfolders; globs; - for standard input.
        outputs: A folder to leave out where another folder or a glob holds it.

    Returns:
        The inputs in the arguments' order, of folders and globs in the order of their names, and
        the problems.
    """
    found: dict[Path | None, str] = {}
    problems = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            found.setdefault(None, STANDARD_INPUT)
            continue
        path = Path(argument)
        # Of os.path, because pathlib raises an error at a name that is too long.
        if os.path.isfile(argument):
            found.setdefault(path.resolve(), argument)
            continue
        if os.path.isdir(argument):
            files = _pictures(path.rglob("*"), outputs)
            missing = "has no pictures in it"
        elif glob.has_magic(argument):
            matches = [Path(match) for match in glob.glob(argument, recursive=True)]
            files = [match for match in matches if match.is_file() and match.suffix]
            for folder in matches:
                if folder.is_dir():
                    files += _pictures(folder.rglob("*"), outputs)
            files = [file for file in files if not _within(file, outputs)]
            missing = "matches no picture"
        else:
            there = os.path.exists(argument)
            problems.append(Problem(argument, "is no file" if there else "is not there"))
            continue
        for file in sorted(files):
            found.setdefault(file.resolve(), str(file))
        if not files:
            problems.append(Problem(argument, missing))
    taken: set[str] = set()
    inputs = []
    for path_or_none, name in found.items():
        stem = _unique(_stem("stdin" if path_or_none is None else Path(name).stem), taken)
        inputs.append(Input(name, path_or_none, stem))
    return inputs, problems


def _pictures(files: Iterable[Path], outputs: Path) -> list[Path]:
    return [
        file
        for file in files
        if file.suffix.lower() in SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
        and not _within(file, outputs)
    ]


def _within(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _stem(text: str) -> str:
    plain = "".join("_" if c in _FORBIDDEN or not c.isprintable() else c for c in text)
    short = plain.encode()[:_STEM_BYTES].decode(errors="ignore")
    # Neither hidden nor of dots alone.
    return short.strip(". ") or "picture"


def _unique(stem: str, taken: set[str]) -> str:
    """The stem, or with a number behind it; some file systems do not tell A from a."""
    candidate, number = stem, 1
    while (key := unicodedata.normalize("NFC", candidate).casefold()) in taken:
        number += 1
        candidate = f"{stem}-{number}"
    taken.add(key)
    return candidate
