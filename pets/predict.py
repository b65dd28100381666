"""`pets predict`: a network on many files; reading and writing go on beside the network."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from pets.inputs import Input, Problem, find_inputs
from pets.photograph import Photograph, PhotographError, read_photograph
from pets.prediction import at_own_size, cutout, mask_picture, overlay, shares
from stages.export.export_files import FILES, is_made_from
from stages.networks.trained import check_network
from stages.parallel import in_parallel
from stages.records.classes import CLASS_NAMES
from stages.records.resizing import network_input
from stages.stage import StageError, progress_bar

# Pictures that the network predicts at once, and the pixels of photographs that wait meanwhile.
BATCH_SIZE = 16
BATCH_PIXELS = 50_000_000
# From this many pictures on, compiling the network is worth its second.
TRACED_FROM = 10
RECORDS_FILE = "predictions.jsonl"
TITLES = {"keras": "Keras", "litert": "LiteRT"}
ENDINGS = {"mask": "mask.png", "overlay": "overlay.jpg", "cutout": "cutout.png"}


class _Network(Protocol):
    image_size: int

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]: ...


class _Read(NamedTuple):
    input: Input
    photograph: Photograph
    pixels: npt.NDArray[np.uint8]  # [image_size, image_size, 3]
    seconds: float


class _Predicted(NamedTuple):
    read: _Read
    probabilities: npt.NDArray[np.float32]  # [image_size, image_size, class]
    seconds: float


def predict(
    arguments: Sequence[str],
    out: Path,
    *,
    network: str,
    models: Path,
    kinds: Sequence[str],
    flip: bool = False,
    runtime: str = "auto",
    force: bool = False,
) -> int:
    """Predicts pictures and writes what was asked for.

    A picture that cannot be read or written costs one line on standard error, and the others go
    on.

    Args:
        arguments: As of `inputs.find_inputs`.
        out: The folder to write to; made if need be.
        network: The network's name.
        models: The folder of its file.
        kinds: Keys of ENDINGS.
        flip: Whether to take the mean over each picture and its mirror image.
        runtime: "keras"; "litert" for the export; or "auto" for the export if there is one of this
            very network, and Keras otherwise.
        force: Whether to overwrite files.

    Returns:
        0, or 1 if anything went wrong.
    """
    inputs, problems = find_inputs(arguments, out)
    for problem in problems:
        _complain(problem)
    try:
        if not inputs:
            raise StageError("there is nothing to predict")
        _make_folder(out, inputs, kinds, force)
        loaded, runtime = _load(models, network, runtime, flip, traced=len(inputs) >= TRACED_FROM)
    except StageError as error:
        print(f"pets: {error}", file=sys.stderr)
        return 1
    start = time.perf_counter()
    done = 0
    predicted = _predicted(loaded, in_parallel(lambda i: _read(i, loaded.image_size), inputs))
    of_network = {"network": network, "runtime": runtime}
    written = in_parallel(lambda item: _written(item, out, of_network, kinds), predicted)
    with (
        (out / RECORDS_FILE).open("w", encoding="utf-8") as records,
        progress_bar(f"predict {network}", len(inputs)) as progress,
    ):
        for problem in problems:
            _record(records, {"file": problem.name, "error": problem.reason})
        for result in written:
            if isinstance(result, Problem):
                problems.append(result)
                _complain(result)
                result = {"file": result.name, "error": result.reason}  # noqa: PLW2901
            else:
                done += 1
            _record(records, result)
            progress.update()
    seconds = time.perf_counter() - start
    print(
        f"{done} of {len(inputs)} pictures with {TITLES[runtime]} in {seconds:.1f} s,"
        f" {done / seconds:.1f} images/s; {out}",
        file=sys.stderr,
    )
    return 1 if problems else 0


def _load(
    models: Path, network: str, runtime: str, flip: bool, traced: bool
) -> tuple[_Network, str]:
    """The network, and what runs it: a key of TITLES."""
    model = models / f"{network}.keras"
    export = models / f"{network}.export" / FILES["litert_float32"].format(network=network)
    # Without the network's own file there is nothing that the export could be of.
    if runtime == "auto" and export.is_file() and model.is_file():
        try:
            if is_made_from(export.parent, model):
                return _load_litert(export, flip), "litert"
            raise StageError(
                f"{export.parent} was not made from this {model.name};"
                f" `dvc repro export@{network}` makes it anew"
            )
        except StageError as error:
            print(f"pets: Keras runs, which takes seconds to start: {error}", file=sys.stderr)
    if runtime == "litert":
        return _load_litert(export, flip), "litert"
    check_network(model)  # before the seconds that Keras takes
    return _load_keras(model, flip, traced), "keras"


# Imported when needed: TensorFlow takes seconds, and the export does without it.
def _load_litert(path: Path, flip: bool) -> _Network:
    from pets.litert import LiteRTNetwork  # noqa: PLC0415

    return LiteRTNetwork(path, flip=flip)


def _load_keras(path: Path, flip: bool, traced: bool) -> _Network:
    from pets.network import Network  # noqa: PLC0415

    return Network(path, flip=flip, traced=traced)


def _make_folder(out: Path, inputs: Iterable[Input], kinds: Sequence[str], force: bool) -> None:
    """Makes the folder, and refuses before anything is done if a file would be overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StageError(f"{out} cannot be made: {error.strerror}") from error
    paths = [_path(out, i, kind) for i in inputs for kind in kinds]
    present = [path for path in (out / RECORDS_FILE, *paths) if os.path.lexists(path)]
    if present and not force:
        others = f" and {len(present) - 1} other files are" if len(present) > 1 else " is"
        raise StageError(
            f"{present[0]}{others} already there; --force overwrites, or choose another --out"
        )
    # What is at these places may be a link out of the folder.
    if (out / RECORDS_FILE).is_symlink():
        (out / RECORDS_FILE).unlink()


def _path(out: Path, of_input: Input, kind: str) -> Path:
    return out / f"{of_input.stem}.{ENDINGS[kind]}"


def _read(of_input: Input, image_size: int) -> _Read | Problem:
    start = time.perf_counter()
    try:
        source = of_input.path if of_input.path is not None else sys.stdin.buffer.read()
        photograph = read_photograph(source)
    except PhotographError as error:
        return Problem(of_input.name, str(error))
    pixels = network_input(photograph.image, image_size)
    return _Read(of_input, photograph, pixels, time.perf_counter() - start)


def _predicted(
    network: _Network, items: Iterable[_Read | Problem]
) -> Iterator[_Predicted | Problem]:
    for batch in _batches(items):
        reads = [item for item in batch if isinstance(item, _Read)]
        start = time.perf_counter()
        images = [read.pixels for read in reads]
        answers: Iterator[npt.NDArray[np.float32]] = iter(
            network.probabilities(np.stack(images)) if images else ()
        )
        seconds = (time.perf_counter() - start) / max(len(reads), 1)
        for item in batch:
            if isinstance(item, Problem):
                yield item
            elif np.isfinite(probabilities := next(answers)).all():
                yield _Predicted(item, probabilities, item.seconds + seconds)
            else:
                yield Problem(item.input.name, "gets no finite numbers: the weights are broken")


def _batches(items: Iterable[_Read | Problem]) -> Iterator[list[_Read | Problem]]:
    batch: list[_Read | Problem] = []
    pixels = 0
    for item in items:
        batch.append(item)
        if isinstance(item, _Read):
            width, height = item.photograph.image.size
            pixels += width * height
        if len(batch) == BATCH_SIZE or pixels > BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _written(
    item: _Predicted | Problem, out: Path, of_network: dict[str, str], kinds: Sequence[str]
) -> dict[str, Any] | Problem:
    if isinstance(item, Problem):
        return item
    start = time.perf_counter()
    of_input, (image, icc_profile) = item.read.input, item.read.photograph
    prediction = at_own_size(item.probabilities, image.size)
    # Level 1 takes a third of the time of Pillow's 6 and gives files that are a tenth larger.
    png: dict[str, Any] = {"format": "PNG", "compress_level": 1}
    jpeg: dict[str, Any] = {"format": "JPEG", "quality": 90}
    make: dict[str, Callable[[], tuple[Image.Image, dict[str, Any]]]] = {
        "mask": lambda: (mask_picture(prediction), png),
        "overlay": lambda: (overlay(image, prediction), jpeg | {"icc_profile": icc_profile}),
        "cutout": lambda: (cutout(image, prediction), png | {"icc_profile": icc_profile}),
    }
    files = {}
    for kind in kinds:
        path = _path(out, of_input, kind)
        # Renamed when it is whole, which also replaces a link instead of writing to its target.
        part = path.with_name(f".{path.name}.part")
        picture, options = make[kind]()
        try:
            picture.save(part, **options)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            return Problem(of_input.name, f"cannot be written to {path}: {error.strerror or error}")
        files[kind] = path.name
    of_class = dict(zip(CLASS_NAMES, shares(prediction.mask, len(CLASS_NAMES)), strict=True))
    return {
        "file": of_input.name,
        **of_network,
        "width": image.width,
        "height": image.height,
        "shares": {name: round(share, 6) for name, share in of_class.items()},
        "confidence": round(prediction.confidence, 6),
        "seconds": round(item.seconds + time.perf_counter() - start, 4),
        "outputs": files,
    }


def _record(records: Any, record: dict[str, Any]) -> None:
    records.write(json.dumps(record) + "\n")
    records.flush()


def _complain(problem: Problem) -> None:
    # A file's name may hold line breaks and escape sequences.
    name = problem.name if problem.name.isprintable() else repr(problem.name)
    tqdm.write(f"pets: {name} {problem.reason}", file=sys.stderr)
