"""`pets predict`: a network on many photographs, as many at a time as there are cores."""

import argparse
import contextlib
import functools
import glob
import itertools
import json
import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from pets.segmenter import Segmenter
from stages.records.photograph import SUFFIX, PhotographError
from stages.stage import StageError, progress_bar, replacing

RECORDS_FILE = "predictions.jsonl"
ENDINGS = {"mask": ".mask.png", "overlay": ".overlay.jpg", "cutout": ".cutout.png"}
# A file's name may have 255 bytes, and an output's ending is short.
STEM_BYTES = 200


class Input(NamedTuple):
    """A photograph to predict."""

    name: str  # as messages name it
    source: Path | bytes
    folder: Path  # of its outputs
    stem: str  # of their names: no other input of the folder has it


def predict(options: argparse.Namespace) -> int:
    """Predicts photographs, writes what the command line asks for, and returns the exit status.

    A photograph that cannot be read or written costs one line on standard error and makes it 1;
    the others go on.
    """
    inputs, missing = find_inputs(options.photos, options.out)
    if not inputs:
        raise StageError(f"there are no photographs in {', '.join(missing)}")
    _check_outputs(inputs, options)
    segmenter = Segmenter(options.network, models=options.models, flip=options.flip)
    one = functools.partial(_predict, segmenter=segmenter, kinds=options.write)
    problems = [{"file": name, "error": "is not there, or has no photographs"} for name in missing]
    total = len(missing) + len(inputs)
    failed = 0
    start = time.perf_counter()
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, len(inputs)))
    try:
        with (
            _records(options.out) as records,
            progress_bar(f"predict {segmenter.name}", total) as progress,
        ):
            for record in itertools.chain(problems, pool.map(one, inputs)):
                print(json.dumps(record), file=records, flush=True)
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
        f"{total - failed} of {total} photographs by {segmenter.name} in {seconds:.1f} s,"
        f" {(total - failed) / seconds:.1f} images/s; {options.out or 'results are beside them'}",
        file=sys.stderr,
    )
    return 1 if failed else 0


def find_inputs(arguments: Sequence[str], out: Path | None) -> tuple[list[Input], list[str]]:
    """The photographs that arguments name, each once, and the arguments that name none.

    These are files, folders (searched with their subfolders), globs, and - for standard input. The
    outputs go to `out`, whose own files are no photographs, or beside each photograph.
    """
    found: dict[str, str] = {}
    missing = []
    for argument in arguments:
        single = argument == "-" or os.path.isfile(argument)
        names = [argument] if single else _search(argument, out)
        if not names:
            missing.append(argument)
        for name in names:
            found.setdefault(os.path.realpath(name), name)
    inputs: list[Input] = []
    taken: set[tuple[Path, str]] = set()
    for name in found.values():
        piped = name == "-"
        folder = out or Path(name).parent
        stem = "stdin" if piped else Path(name).stem
        first = stem = os.fsencode(stem)[:STEM_BYTES].decode(errors="ignore")
        number = 1
        # Some file systems do not tell A from a, or two forms of an accent.
        while (key := (folder, unicodedata.normalize("NFC", stem).casefold())) in taken:
            number += 1
            stem = f"{first}-{number}"
        taken.add(key)
        inputs.append(Input(name, sys.stdin.buffer.read() if piped else Path(name), folder, stem))
    return inputs, missing


def _search(argument: str, out: Path | None) -> list[str]:
    paths = [argument] if os.path.isdir(argument) else glob.glob(argument, recursive=True)
    folders = [Path(path) for path in paths if os.path.isdir(path)]
    files = [Path(path) for path in paths] + [file for path in folders for file in path.rglob("*")]
    return sorted(
        str(file)
        for file in files
        if SUFFIX.fullmatch(file.suffix)
        and not file.name.startswith(".")
        and not file.name.endswith(tuple(ENDINGS.values()))  # of an earlier run
        and file.is_file()
        and not (out and file.resolve().is_relative_to(out.resolve()))
    )


def _check_outputs(inputs: Sequence[Input], options: argparse.Namespace) -> None:
    """Makes the folder, and refuses before anything is done if a file would be overwritten."""
    paths = [i.folder / (i.stem + ENDINGS[kind]) for i in inputs for kind in options.write]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        paths.insert(0, options.out / RECORDS_FILE)
    present = [path for path in paths if os.path.lexists(path)]
    if present and not options.force:
        remedy = "--force overwrites, or choose another --out"
        raise StageError(f"{present[0]} is already there; {remedy}")


def _records(out: Path | None) -> contextlib.AbstractContextManager[Any]:
    """Where the lines of JSON go: a file in the folder, or without one standard output."""
    if out is None:
        return contextlib.nullcontext(sys.stdout)
    path = out / RECORDS_FILE
    if path.is_symlink():  # may lead out of the folder
        path.unlink()
    return path.open("w", encoding="utf-8")


def _predict(item: Input, segmenter: Segmenter, kinds: Sequence[str]) -> dict[str, Any]:
    """Predicts a photograph, writes its outputs and returns its record."""
    start = time.perf_counter()
    try:
        found = segmenter.segment(item.source)
    except PhotographError as error:
        return {"file": item.name, "error": str(error)}
    make = {"mask": found.colors, "overlay": found.overlay, "cutout": found.cutout}
    outputs = {kind: item.stem + ENDINGS[kind] for kind in kinds}
    for kind, name in outputs.items():
        profile = None if kind == "mask" else found.photograph.info.get("icc_profile")
        try:
            with replacing(item.folder / name) as part:
                # Level 1 takes a third of the time of Pillow's 6; the files are a tenth larger.
                make[kind]().save(part, quality=90, compress_level=1, icc_profile=profile)
        except OSError as error:
            return {"file": item.name, "error": f"cannot be written to {item.folder}: {error}"}
    return {
        "file": item.name,
        "network": segmenter.name,
        "width": found.photograph.width,
        "height": found.photograph.height,
        "shares": {name: round(share, 6) for name, share in found.shares().items()},
        "confidence": round(found.confidence, 6),
        "seconds": round(time.perf_counter() - start, 4),
        "outputs": outputs,
    }
