"""What every stage does toward its user: errors in one line, a progress bar, atomic writes."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

# In `dvc exp run --temp` and in the queue the working directory is a copy that is thrown away;
# DVC_ROOT is the repository itself.
ROOT = Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[1])

_FULL = "make room (`dvc gc --workspace` removes results that nothing here names) and try again"
_READ_ONLY = "make it writable, or work in another clone"
# What to do about a file system that refuses, by the number of the error.
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}


class StageError(Exception):
    """Something that the user can mend: the message says what is wrong, where, and what to do."""


def run_stage(name: str, stage: Callable[[], None]) -> None:
    """Runs a stage, and turns what its user can mend into one clear message and exit status 1.

    That is a `StageError`, a file system that refuses, and memory that is used up.

    Args:
        name: The stage's name as in dvc.yaml, put before the message.
        stage: The stage's work; called without arguments.
    """
    try:
        stage()
    except StageError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; `dvc repro` starts this stage again")
    except Exception as error:
        message = starved(error)
        if message is None:
            raise
        sys.exit(f"{name}: {message}")


def starved(error: BaseException) -> str | None:
    """Says what a stage lacks: room, the right to write, or memory; None if it is another error.

    Args:
        error: Python's or TensorFlow's, or one that was raised from such.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split())
        tensorflow = type(cause).__module__.startswith("tensorflow.")  # known without importing it
        if isinstance(cause, OSError):
            place = f"{cause.filename}: " if cause.filename else ""
            remedy = _REMEDIES.get(cause.errno or 0)
            return f"{place}{cause.strerror or text}" + (f"; {remedy}" if remedy else "")
        for number, remedy in _REMEDIES.items():
            if tensorflow and os.strerror(number) in text:
                return f"{text}; {remedy}"
        if isinstance(cause, MemoryError) or (
            tensorflow and type(cause).__name__ == "ResourceExhaustedError"
        ):
            return (
                f"there is not enough memory{f' ({text[:200]})' if text else ''};"
                " lower batch_size or image_size in params.yaml, or end other programs"
            )
        cause = cause.__cause__
    return None


def progress_bar(description: str, images: int) -> tqdm:
    """Opens a bar.

    Args:
        description: What stands before the bar.
        images: How many images there will be.
    """
    # A log file gets a line now and then instead of one for every movement.
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(
        desc=description, total=images, unit=" images", mininterval=interval, maxinterval=interval
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file under another name and puts it in its place once it is whole.

    A kill, a power loss, a full disk or an error leave what was at `path` before. What a kill
    leaves under the other name is overwritten the next time.

    Args:
        path: The file that appears or is replaced.

    Yields:
        Where to write: a path in the same folder, with the same ending.

    Raises:
        OSError: The file cannot be written.
    """
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power loss may keep the name without the content
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
