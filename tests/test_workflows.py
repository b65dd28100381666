"""Workflows, container and metadata name what there is, and run what the Makefile runs."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "file",
    [".pre-commit-config.yaml", "Dockerfile", *map(str, ROOT.glob(".github/workflows/*.yml"))],
    ids=os.path.basename,
)
def test_their_commands_are_targets_of_make(file: str) -> None:
    targets = re.findall(r"\bmake ([a-z]+)\b", (ROOT / file).read_text())
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_tests_run_on_every_python_that_is_promised() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    job = workflow["jobs"]["tests"]
    pythons = job["strategy"]["matrix"]["python"]
    first, last = (int(python.split(".")[1]) for python in (pythons[0], pythons[-1]))
    assert PROJECT["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert f"(3, {first}) <= sys.version_info[:2] <= (3, {last})" in MAKEFILE
    assert [step["run"] for step in job["steps"] if "run" in step] == [
        "make setup", "make lint", "make test",
    ]  # fmt: skip


def test_the_container_copies_what_its_context_has() -> None:
    (copied,) = re.findall(r"^COPY (.*) \./$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert sorted(f"!{name}" for name in copied.split()) == sorted(context[1:])
    assert all((ROOT / name).is_file() for name in copied.split())


def test_citation_and_artifacts() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    networks = yaml.safe_load((ROOT / "params.yaml").read_text())["networks"]
    with Repo(ROOT) as repo:
        artifacts = repo.artifacts.read()["dvc.yaml"]
    assert {name: artifact.path for name, artifact in artifacts.items()} == {
        name: f"models/{name}.keras" for name in networks
    }
