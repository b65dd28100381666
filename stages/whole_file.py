"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
