"""The networks that a folder holds, and what to do where one is missing; without TensorFlow."""

from pathlib import Path

from stages.stage import StageError

# Of one network, or of several.
ADVICE = "`dvc pull` fetches what was trained elsewhere, and `make repro` trains it here"


def network_names(models: Path) -> list[str]:
    """The networks that a folder holds."""
    return sorted(path.stem for path in models.glob("*.keras"))


def check_network(path: Path) -> None:
    """Raise StageError, with what to do and which others are there, if a network has no file."""
    if not path.is_file():
        names = network_names(path.parent)
        others = f"; there is {', '.join(names)}" if names else ""
        raise StageError(f"there is no {path}: {ADVICE}{others}")
