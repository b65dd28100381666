"""The one way in which a stage tells its user that it cannot go on."""

import sys
from collections.abc import Callable


class StageError(Exception):
    """Something that the user can mend: the message says what is wrong, where, and what to do."""


def run_stage(name: str, stage: Callable[[], None]) -> None:
    """Runs a stage, and turns a `StageError` into one clear message and exit status 1.

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
