"""The one way in which a stage tells its user that it cannot go on."""

import errno
import sys
from collections.abc import Callable

# What to do about a file system that refuses, by the number of the error.
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "make room (`dvc gc --workspace` removes results that no file here names) and try again",
    ),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM), "make it writable, or work in another clone"
    ),
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
    except MemoryError as error:
        sys.exit(f"{name}: {out_of_memory(error)}")
    except OSError as error:
        sys.exit(f"{name}: {refused(error)}")
    except Exception as error:
        if not _of_tensorflow(error, "ResourceExhaustedError"):
            raise
        sys.exit(f"{name}: {out_of_memory(error)}")


def refused(error: OSError) -> str:
    """Says what a file system refuses, where, and what to do."""
    place = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{place}{' '.join(reason.split())}" + (f"; {remedy}" if remedy else "")


def out_of_memory(error: BaseException) -> str:
    """Says that memory is used up, and what to do."""
    reason = (str(error).splitlines() or [""])[0]
    return (
        f"there is not enough memory{f' ({reason})' if reason else ''};"
        " lower batch_size or image_size in params.yaml, or end other programs"
    )


def _of_tensorflow(error: Exception, name: str) -> bool:
    # By name, because a stage that does not use TensorFlow need not wait for it.
    kind = type(error)
    return kind.__name__ == name and kind.__module__.startswith("tensorflow.")
