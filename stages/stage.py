"""What every stage shares: one-line errors, a progress bar, atomic writes."""

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
# What to do about an error of the file system, by its number.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _READ_ONLY),
}


class StageError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do."""


def run_stage(name: str, stage: Callable[[], object]) -> None:
    """Run a stage; an error that the user can fix becomes one line and exit status 1."""
    try:
        stage()
    except StageError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; `dvc repro` starts this stage again")
    except Exception as error:
        if message := out_of_resources(error):
            sys.exit(f"{name}: {message}")
        raise


def out_of_resources(error: BaseException | None) -> str | None:
    """Describe an error of the file system or a lack of memory, or what has it as its cause."""
    while error is not None:
        text = " ".join(str(error).split())
        tensorflow = type(error).__module__.startswith("tensorflow.")  # known without importing it
        if isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            remedy = _REMEDIES.get(error.errno or 0)
            return f"{place}{error.strerror or text}" + (f"; {remedy}" if remedy else "")
        for number, remedy in _REMEDIES.items():
            if tensorflow and os.strerror(number) in text:
                return f"{text}; {remedy}"
        exhausted = tensorflow and type(error).__name__ == "ResourceExhaustedError"
        if exhausted or isinstance(error, MemoryError):
            return (
                f"there is not enough memory ({text[:200]}); lower batch_size or image_size in"
                " params.yaml, or end other programs"
            )
        error = error.__cause__
    return None


def progress_bar(description: str, images: int) -> tqdm:
    """Open a progress bar over a number of images; without a terminal there is none."""
    return tqdm(desc=description, total=images, unit=" images", disable=None)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: a kill, power loss or error leaves what was at `path` before.

    Yields where to write: a path in the same folder, with the same ending.
    """
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power loss may keep the name without the content
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
