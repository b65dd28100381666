"""Runs a recipe, a file of parameters beside this one, as a DVC experiment in a copy.

The workspace and its params.yaml stay as they are. What a recipe does not name is taken from
params.yaml.
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

from stages.params import flat
from stages.stage import StageError, run_stage

FOLDER = Path(__file__).parent


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("recipe", help=", ".join(names()))
    parser.add_argument("--name", help="of the experiment; DVC makes one up without")
    parser.add_argument("--queue", action="store_true", help="only queue it (dvc queue start)")
    parser.add_argument(
        "-S", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="a parameter with another value than in the recipe",
    )  # fmt: skip
    options = parser.parse_args()
    command = ["dvc", "exp", "run", "--queue" if options.queue else "--temp"]
    if options.name:
        command += ["--name", options.name]
    for change in [*overrides(load_recipe(options.recipe)), *options.changes]:
        command += ["-S", change]
    print(shlex.join(command), file=sys.stderr)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe by dotted keys, such as `unet.learning_rate`.

    Raises:
        StageError: There is no such recipe.
    """
    if name not in names():
        raise StageError(f"there is no recipe {name!r}; there are {', '.join(names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return flat(values)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted keys as `dvc exp run -S` takes them."""
    return [f"{key}={_literal(value)}" for key, value in values.items()]


def _literal(value: object) -> str:
    """A value in Hydra's grammar, in which `train[:50%]` needs quotes."""
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    run_stage("recipes", main)
