"""Run a recipe, a file of parameters beside this one, as a DVC experiment in a copy.

The workspace and its params.yaml stay as they are; what a recipe does not name is taken from there.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dvc.utils.flatten import flatten

FOLDER = Path(__file__).parent


def main() -> None:
    """Run the recipe that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("recipe", choices=names())
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of `dvc exp run`")
    options = parser.parse_args()
    changes = [f"--set-param={change}" for change in overrides(load_recipe(options.recipe))]
    place = [] if "--queue" in options.arguments else ["--temp"]
    place += [f"--copy-paths={path}" for path in untracked("data/own")]
    command = ["dvc", "exp", "run", *place, *changes, *options.arguments]
    print(shlex.join(command), file=sys.stderr)
    sys.exit(subprocess.run(command, check=False).returncode)


def untracked(folder: str) -> list[str]:
    """What is in a folder and neither Git's nor DVC's, so that a copy would lack it."""
    command = ["git", "ls-files", "--others", "--directory", "-z", folder]
    paths = subprocess.check_output(command, text=True).split("\0")[:-1]
    return [path for path in paths if not Path(path.rstrip("/") + ".dvc").exists()]


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe by dotted keys, such as `unet.learning_rate`."""
    return flatten(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted keys as `dvc exp run -S` takes them: Hydra's grammar has that of JSON."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


if __name__ == "__main__":
    main()
