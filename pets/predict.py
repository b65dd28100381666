"""`pets predict`: a network on many photographs, as many at a time as there are cores."""

import argparse
import contextlib
import functools
import glob
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image
from tqdm import tqdm

from pets.networks import CORES, Network, load_network
from pets.photograph import SUFFIXES, PhotographError, read_photograph
from pets.prediction import segment
from stages.stage import StageError, progress_bar

RECORDS_FILE = "predictions.jsonl"
TITLES = {"keras": "Keras", "litert": "LiteRT"}
ENDINGS = {"mask": "mask.png", "overlay": "overlay.jpg", "cutout": "cutout.png"}
STANDARD_INPUT = "-"
# A file's name may have 255 bytes, and an output's ending is short.
STEM_BYTES = 200
FORBIDDEN = frozenset('<>:"/\\|?*')  # in file names of Windows
_Records = Generator[dict[str, Any], None, None]


class Input(NamedTuple):
    """A photograph to predict."""

    name: str  # as messages name it
    source: Path | bytes
    stem: str  # of its outputs' names: no other input has it


def predict(options: argparse.Namespace) -> int:
    """Predicts photographs and writes what the command line asks for.

    A photograph that cannot be read or written costs one line on standard error, and the others
    go on.

    Returns:
        0, or 1 if anything went wrong.
    """
    inputs, problems = find_inputs(options.photos, options.out)
    for problem in problems:
        _complain(problem)
    if not inputs:
        raise StageError("there is nothing to predict")
    _make_folder(options.out, inputs, options.write, options.force)
    network = load_network(options.models, options.network, options.runtime, options.flip)
    one = functools.partial(_predict, network=network, options=options)
    failed = len(problems)
    start = time.perf_counter()
    with (
        (options.out / RECORDS_FILE).open("w", encoding="utf-8") as records,
        progress_bar(f"predict {options.network}", len(inputs)) as progress,
        ThreadPoolExecutor(min(CORES, len(inputs))) as pool,
        # Closed, it drops what waits.
        contextlib.closing(cast(_Records, pool.map(one, inputs))) as results,
    ):
        for problem in problems:
            records.write(json.dumps(problem) + "\n")
        for record in results:
            records.write(json.dumps(record) + "\n")
            records.flush()
            progress.update()
            if "error" in record:
                failed += 1
                _complain(record)
    seconds = time.perf_counter() - start
    done = len(problems) + len(inputs) - failed
    print(
        f"{done} of {len(inputs)} photographs with {TITLES[network.runtime]} in {seconds:.1f} s,"
        f" {done / seconds:.1f} images/s; {options.out}",
        file=sys.stderr,
    )
    return 1 if failed else 0


def find_inputs(arguments: Sequence[str], out: Path) -> tuple[list[Input], list[dict[str, Any]]]:
    """The photographs that arguments name, each once, and the records of what is not there.

    Args:
        arguments: Files; folders, searched with their subfolders; globs; - for standard input.
        out: A folder to leave out where another folder or a glob holds it.
    """
    found: dict[Path | None, str] = {}
    problems = []
    for argument in arguments:
        # os.path, because pathlib raises an error for a name that is too long.
        if argument == STANDARD_INPUT:
            found.setdefault(None, argument)
        elif os.path.isfile(argument):
            found.setdefault(Path(argument).resolve(), argument)
        elif os.path.isdir(argument) or glob.has_magic(argument):
            names = [argument] if os.path.isdir(argument) else glob.glob(argument, recursive=True)
            files = _photographs([Path(name) for name in names], out)
            for file in files:
                found.setdefault(file.resolve(), str(file))
            if not files:
                problems.append({"file": argument, "error": "has no photographs"})
        else:
            error = "is not a file" if os.path.exists(argument) else "is not there"
            problems.append({"file": argument, "error": error})
    inputs: list[Input] = []
    taken: set[str] = set()
    for path, name in found.items():
        first = stem = _stem(Path(name).stem if path else "stdin")
        number = 1
        while _folded(stem) in taken:
            number += 1
            stem = f"{first}-{number}"
        taken.add(_folded(stem))
        inputs.append(Input(name, path or sys.stdin.buffer.read(), stem))
    return inputs, problems


def _photographs(paths: Sequence[Path], out: Path) -> list[Path]:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sorted(
        file
        for file in files
        if file.suffix.lower() in SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
        and not file.resolve().is_relative_to(out.resolve())
    )


def _stem(text: str) -> str:
    plain = "".join("_" if c in FORBIDDEN or not c.isprintable() else c for c in text)
    short = plain.encode()[:STEM_BYTES].decode(errors="ignore")
    # Neither hidden nor only dots.
    return short.strip(". ") or "photograph"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()  # some file systems do not tell A from a


def _make_folder(out: Path, inputs: Sequence[Input], kinds: Sequence[str], force: bool) -> None:
    """Makes the folder, and refuses before anything is done if a file would be overwritten."""
    out.mkdir(parents=True, exist_ok=True)
    records = out / RECORDS_FILE
    paths = [out / f"{i.stem}.{ENDINGS[kind]}" for i in inputs for kind in kinds]
    present = [path for path in (records, *paths) if os.path.lexists(path)]
    if present and not force:
        remedy = "--force overwrites, or choose another --out"
        raise StageError(f"{present[0]} is already there; {remedy}")
    if records.is_symlink():  # may lead out of the folder
        records.unlink()


def _predict(item: Input, network: Network, options: argparse.Namespace) -> dict[str, Any]:
    """Predicts a photograph, writes its outputs and returns its record."""
    start = time.perf_counter()
    try:
        image, icc_profile = read_photograph(item.source)
        prediction = segment(network, image, image.size)
    except PhotographError as error:
        return {"file": item.name, "error": str(error)}
    make: dict[str, Callable[[], Image.Image]] = {
        "mask": prediction.colors,
        "overlay": functools.partial(prediction.overlay, image),
        "cutout": functools.partial(prediction.cutout, image),
    }
    outputs = {kind: f"{item.stem}.{ENDINGS[kind]}" for kind in options.write}
    for kind, name in outputs.items():
        # Renamed when it is complete, which also replaces a link instead of writing to its target.
        part = options.out / f".{name}.part"
        try:
            # Level 1 takes a third of the time of Pillow's 6; the files are a tenth larger.
            make[kind]().save(
                part,
                "JPEG" if kind == "overlay" else "PNG",
                quality=90,
                compress_level=1,
                icc_profile=None if kind == "mask" else icc_profile,
            )
            part.replace(options.out / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = f"cannot be written to {options.out / name}: {error.strerror or error}"
            return {"file": item.name, "error": reason}
    return {
        "file": item.name,
        "network": options.network,
        "runtime": network.runtime,
        "width": image.width,
        "height": image.height,
        "shares": {name: round(share, 6) for name, share in prediction.shares().items()},
        "confidence": round(prediction.confidence, 6),
        "seconds": round(time.perf_counter() - start, 4),
        "outputs": outputs,
    }


def _complain(problem: dict[str, Any]) -> None:
    # A file's name may hold line breaks and escape sequences.
    name = problem["file"] if problem["file"].isprintable() else repr(problem["file"])
    tqdm.write(f"pets: {name} {problem['error']}", file=sys.stderr)
