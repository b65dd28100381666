"""`pets predict`: a network on many photographs, as many at a time as there are cores."""

import argparse
import functools
import glob
import itertools
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from pets.networks import CORES, Network, load_network
from pets.photograph import SUFFIX, PhotographError, read_photograph
from pets.prediction import segment
from stages.stage import StageError, progress_bar, replacing

RECORDS_FILE = "predictions.jsonl"
ENDINGS = {"mask": "mask.png", "overlay": "overlay.jpg", "cutout": "cutout.png"}
STANDARD_INPUT = "-"
# A file's name may have 255 bytes, and an output's ending is short.
STEM_BYTES = 200


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
    inputs, missing = find_inputs(options.photos, options.out)
    if not inputs:
        raise StageError(f"there are no photographs in {', '.join(missing)}")
    _make_folder(options.out, inputs, options.write, options.force)
    network = load_network(options.models, options.network, options.runtime)
    one = functools.partial(_predict, network=network, options=options)
    problems = [{"file": name, "error": "is not there, or has no photographs"} for name in missing]
    total = len(missing) + len(inputs)
    failed = 0
    start = time.perf_counter()
    pool = ThreadPoolExecutor(min(CORES, len(inputs)))
    try:
        with (
            (options.out / RECORDS_FILE).open("w", encoding="utf-8") as records,
            progress_bar(f"predict {options.network}", total) as progress,
        ):
            for record in itertools.chain(problems, pool.map(one, inputs)):
                records.write(json.dumps(record) + "\n")
                records.flush()
                progress.update()
                if "error" in record:
                    failed += 1
                    # A file's name may hold line breaks and escape sequences.
                    name = record["file"] if record["file"].isprintable() else repr(record["file"])
                    tqdm.write(f"pets: {name} {record['error']}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    seconds = time.perf_counter() - start
    print(
        f"{total - failed} of {total} photographs with {network.runtime} in {seconds:.1f} s,"
        f" {(total - failed) / seconds:.1f} images/s; {options.out}",
        file=sys.stderr,
    )
    return 1 if failed else 0


def find_inputs(arguments: Sequence[str], out: Path) -> tuple[list[Input], list[str]]:
    """The photographs that arguments name, each once, and the arguments that name none.

    Args:
        arguments: Files; folders, searched with their subfolders; globs; - for standard input.
        out: A folder to leave out where another folder or a glob holds it.
    """
    found: dict[str, str] = {}
    missing = []
    for argument in arguments:
        single = argument == STANDARD_INPUT or os.path.isfile(argument)
        names = [argument] if single else _search(argument, out)
        if not names:
            missing.append(argument)
        for name in names:
            found.setdefault(os.path.realpath(name), name)
    inputs: list[Input] = []
    taken: set[str] = set()
    for name in found.values():
        stem = "stdin" if name == STANDARD_INPUT else Path(name).stem
        first = stem = os.fsencode(stem)[:STEM_BYTES].decode(errors="ignore")
        number = 1
        # Some file systems do not tell A from a, or two forms of an accent.
        while (folded := unicodedata.normalize("NFC", stem).casefold()) in taken:
            number += 1
            stem = f"{first}-{number}"
        taken.add(folded)
        source = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name)
        inputs.append(Input(name, source, stem))
    return inputs, missing


def _search(argument: str, out: Path) -> list[str]:
    paths = [argument] if os.path.isdir(argument) else glob.glob(argument, recursive=True)
    folders = [Path(path) for path in paths if os.path.isdir(path)]
    files = [Path(path) for path in paths] + [file for path in folders for file in path.rglob("*")]
    return sorted(
        str(file)
        for file in files
        if SUFFIX.fullmatch(file.suffix)
        and not file.name.startswith(".")
        and file.is_file()
        and not file.resolve().is_relative_to(out.resolve())
    )


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
        image = read_photograph(item.source)
        prediction = segment(network, image, image.size, options.flip)
    except PhotographError as error:
        return {"file": item.name, "error": str(error)}
    make: dict[str, Callable[[], Image.Image]] = {
        "mask": prediction.colors,
        "overlay": lambda: prediction.overlay(image),
        "cutout": lambda: prediction.cutout(image),
    }
    outputs = {kind: f"{item.stem}.{ENDINGS[kind]}" for kind in options.write}
    for kind, name in outputs.items():
        profile = None if kind == "mask" else image.info.get("icc_profile")
        try:
            with replacing(options.out / name) as part:
                # Level 1 takes a third of the time of Pillow's 6; the files are a tenth larger.
                make[kind]().save(part, quality=90, compress_level=1, icc_profile=profile)
        except OSError as error:
            return {"file": item.name, "error": f"cannot be written to {options.out}: {error}"}
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
