"""The cache is a promise: dvc.yaml names the rooms that a stage imports and the keys it reads."""

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.params import Params, load_params

ROOT = Path(__file__).resolve().parents[1]
CODE = ("stages", "data/synthetic_pets")
RUNS = ROOT / "stages" / "runs"  # MLflow changes no output, and no stage depends on it
NETWORKS = load_params(ROOT / "params.yaml").networks
STAGES: dict[str, list[str]] = {
    "prepare": ["data.synthetic_pets.builder"],  # where the dataset asks for it
    **{f"train@{name}": [f"stages.networks.{name}.network"] for name in NETWORKS},
    **{f"evaluate@{name}": [] for name in NETWORKS},
    **{f"export@{name}": [] for name in NETWORKS},
    "plot": [],
}


@pytest.fixture(scope="module")
def pipeline() -> dict:
    return {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}


def _stage(name: str) -> str:
    return name.split("@", maxsplit=1)[0]


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of the project that the import statements of one file run."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return frozenset(found for name in names for found in _files(name))


def _files(module: str) -> Iterator[Path]:
    """The files that importing a module runs: its own and those of the packages around it."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file() and any(file.is_relative_to(ROOT / code) for code in CODE):
                yield file


def closure(name: str, with_runs: bool = False) -> set[Path]:
    """All files of the project that a stage runs; without stages/runs and what only it imports."""
    modules = [f"stages.{_stage(name)}.__main__", *STAGES[name]]
    todo = [file for module in modules for file in _files(module)]
    found: set[Path] = set()
    while todo:
        file = todo.pop()
        if file not in found and (with_runs or not file.is_relative_to(RUNS)):
            found.add(file)
            todo += imported(file)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_imports_lies_in_its_rooms_and_each_room_is_needed(
    pipeline: dict, name: str
) -> None:
    """The code among its dependencies: folders, and files that stand alone."""
    paths = [Path(dep.fs_path) for dep in pipeline[name].deps if dep.def_path != "params.yaml"]
    rooms = [path for path in paths if any(path.is_relative_to(ROOT / code) for code in CODE)]
    files = closure(name)
    assert not [file for file in files if not any(map(file.is_relative_to, rooms))]
    assert not [room for room in rooms if not any(file.is_relative_to(room) for file in files)]
    assert not any(room.is_relative_to(RUNS) or RUNS.is_relative_to(room) for room in rooms)


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_imports_another(name: str) -> None:
    found = {file.relative_to(ROOT).parts[1] for file in closure(name, with_runs=True)}
    assert found & set(map(_stage, STAGES)) == {_stage(name)}


def test_imports_between_rooms_go_one_way() -> None:
    graph: dict[str, set[str]] = {}
    for file in (ROOT / "stages").rglob("*.py"):
        graph.setdefault(_room(file), set()).update(map(_room, imported(file)))
    for room, others in graph.items():
        others.discard(room)
    order = list(graphlib.TopologicalSorter(graph).static_order())  # a cycle is an error
    assert {"stage.py", "params", "records", "networks", "metrics", "runs", "train"} <= set(order)


def _room(file: Path) -> str:
    parts = file.relative_to(ROOT).parts[1:]
    network = parts[0] == "networks" and len(parts) == 3
    return "/".join(parts[:2]) if network else parts[0]


@pytest.mark.parametrize("name", STAGES)
def test_parameters_are_exactly_those_that_a_stage_reads(pipeline: dict, name: str) -> None:
    """Only MLflow is given all of them by every stage."""
    keys = set(Params.model_fields)
    read = set()
    for file in closure(name):
        if file.is_relative_to(ROOT / "stages" / "params"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                if ast.unparse(node.value).endswith(("params", "load_params()")):
                    read.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node) == "params.model_dump()":
                read |= keys
    if "network" in read and "@" in name:  # Params.network gives the group of the stage's network
        read.add(name.split("@")[1])
    deps = [dep for dep in pipeline[name].deps if dep.def_path == "params.yaml"]
    declared = {key for dep in deps for key in (dep.params or keys)}
    assert declared == read & keys


def test_metrics_and_reports_are_in_git_and_models_and_records_in_the_cache(pipeline: dict) -> None:
    assert set(pipeline) == set(STAGES)  # all stages are known here
    cached = {out.def_path: out.use_cache for stage in pipeline.values() for out in stage.outs}
    small = {path for path, use_cache in cached.items() if not use_cache}
    assert {path.split("/")[0] for path in small} == {"metrics", "reports"}
    assert {path.split("/")[0] for path in set(cached) - small} == {"models", "data"}
