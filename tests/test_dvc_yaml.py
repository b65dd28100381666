"""The cache is a promise: dvc.yaml names what each stage imports and reads, no more and no less."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.params import Params, load_params

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = load_params(ROOT / "params.yaml").networks
STAGES: dict[str, list[str]] = {
    "prepare": [],
    **{f"train@{name}": [f"stages.networks.{name}.network"] for name in NETWORKS},
    **{f"evaluate@{name}": [] for name in NETWORKS},
    **{f"export@{name}": [] for name in NETWORKS},
    "plot": [],
}


@pytest.fixture(scope="module")
def pipeline() -> dict:
    return {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}


def _imports(file: Path) -> Iterator[str]:
    """The modules of the project that a file names in import statements."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(module: str) -> Iterator[Path]:
    """The files that importing a module runs: its own and those of the packages around it."""
    parts = module.split(".")
    if parts[0] != "stages":
        return
    for length in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:length])
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py"))


def import_closure(*modules: str) -> set[Path]:
    """All files of the project that importing these modules runs."""
    todo = [file for module in modules for file in _files(module) if file.is_file()]
    closure: set[Path] = set()
    while todo:
        file = todo.pop()
        if file not in closure:
            closure.add(file)
            todo += [new for name in _imports(file) for new in _files(name) if new.is_file()]
    return closure


def test_every_stage_is_known_here(pipeline: dict) -> None:
    assert set(pipeline) == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_dependencies_are_exactly_the_modules_that_a_stage_imports(
    pipeline: dict, name: str
) -> None:
    declared: set[Path] = set()
    for dep in pipeline[name].deps:
        path = Path(dep.fs_path) if dep.def_path != "params.yaml" else None
        if path and path.is_relative_to(ROOT / "stages"):
            declared |= set(path.rglob("*.py")) if path.is_dir() else {path}
    module = f"stages.{name.split('@', maxsplit=1)[0]}"
    expected = import_closure(module, *STAGES[name])
    assert {str(file.relative_to(ROOT)) for file in declared} == {
        str(file.relative_to(ROOT)) for file in expected
    }


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_imports_another_stage(name: str) -> None:
    stage = name.split("@", maxsplit=1)[0]
    others = {ROOT / "stages" / f"{other.split('@')[0]}.py" for other in STAGES}
    imported = import_closure(f"stages.{stage}", *STAGES[name])
    assert imported & others == {ROOT / "stages" / f"{stage}.py"}


@pytest.mark.parametrize("name", STAGES)
def test_parameters_are_exactly_those_that_a_stage_reads(pipeline: dict, name: str) -> None:
    """What a stage's modules read of `params`; logging all of them to MLflow changes no output."""
    stage = name.split("@", maxsplit=1)[0]
    logging = ("params", "runs/tracking", "runs/contents")
    not_read = {ROOT / "stages" / f"{name}.py" for name in logging}
    read = {
        node.attr
        for file in import_closure(f"stages.{stage}", *STAGES[name]) - not_read
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("params")
    }
    declared = {
        key for dep in pipeline[name].deps if dep.def_path == "params.yaml" for key in dep.params
    }
    if "network" in read:  # Params.network gives the group of the stage's network
        read |= {name.split("@")[1]}
    assert ("network" in read) == (stage in {"train", "export"})
    assert declared == read & set(Params.model_fields)


def test_metrics_and_reports_are_in_git_and_models_and_records_in_the_cache(pipeline: dict) -> None:
    cached = {out.def_path: out.use_cache for stage in pipeline.values() for out in stage.outs}
    small = {path for path, use_cache in cached.items() if not use_cache}
    assert {path.split("/")[0] for path in small} == {"metrics", "reports"}
    assert {path.split("/")[0] for path in set(cached) - small} == {"models", "data"}
