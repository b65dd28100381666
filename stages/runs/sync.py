"""Fill in the MLflow runs of all that DVC has: `make sync`.

A stage that DVC takes from its cache, that ran while MLflow was unavailable, or on another machine,
logs nothing here. This adds what the store lacks of the evaluated networks in the dvc.lock of each
branch, of each experiment and of the workspace. What the store has stays as it is.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from dvc.repo import Repo
from dvc.utils.flatten import flatten
from pydantic import TypeAdapter, ValidationError

from stages.metrics.results import Results
from stages.params import Params
from stages.records.manifest import EXAMPLES_FILE, RECORDS_FOLDER, read_manifest
from stages.runs import run, tracking
from stages.runs.registry import REGISTERED_TAG, model_id
from stages.runs.tracking import one_line, open_experiment, trouble
from stages.stage import StageError, run_stage


class Trained(NamedTuple):
    """A network as a dvc.lock has it, trained and evaluated."""

    network: str
    params: dict[str, Any]  # flat, as a run has them
    model: str  # path of the network's file
    files: dict[str, str]  # MD5 by path, of what the stages wrote; "" for files of the records


def sync() -> None:
    """Fill in the runs, and print a line for each that was added or is incomplete.

    Raises StageError if the store is unavailable.
    """
    repo = Repo(str(tracking.ROOT))
    try:
        experiment = open_experiment()
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(trouble(error)) from error
    outcomes = Counter(dict.fromkeys(("added", "completed", "there already"), 0))
    seen = set()
    for rev, origin in revisions(repo):
        try:
            with repo.switch(rev):
                for found in trained_networks(repo.dvcfs):
                    key = (found.files[found.model], str(found.params["test_time_flip"]))
                    if key not in seen:
                        seen.add(key)
                        outcomes[sync_network(repo, experiment, found, origin)] += 1
        except StageError:
            raise
        except Exception as error:  # a broken revision raises errors of DVC, Git and YAML alike
            outcomes["skipped"] += 1
            print(f"skipped: {origin['title']}: {one_line(error)}")
    repo.close()
    print(f"MLflow: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")


def revisions(repo: Repo) -> Iterator[tuple[str, dict[str, Any]]]:
    """Branches, those of remotes, experiments and the workspace, each with its `run.Training` part.

    The oldest that has a network names its run.
    """
    scm = repo.scm
    found: list[tuple[str, dict[str, Any]]] = []
    for ref in [*scm.iter_refs("refs/heads/"), *scm.iter_refs("refs/remotes/")]:
        rev = scm.get_ref(ref)
        title = f"{ref.split('/', 2)[2]} {rev[:7]}"
        found.append((rev, {"title": title, "tags": {run.COMMIT_TAG: rev}}))
    for base, names in repo.experiments.ls(all_commits=True).items():
        for name, rev in names:
            found.append((rev, {"title": name, "tags": run.experiment_tags(name, base)}))
    for rev, origin in found:
        origin["time"] = scm.resolve_commit(rev).commit_time * 1000
    yield from sorted(found, key=lambda revision: revision[1]["time"])
    lock = Path(repo.root_dir) / "dvc.lock"
    if lock.exists():
        time = lock.stat().st_mtime
        title = f"{datetime.fromtimestamp(time):%m-%d %H:%M}"
        yield "workspace", {"title": title, "tags": {}, "time": int(time * 1000)}


def trained_networks(files: Any) -> Iterator[Trained]:
    """The networks of the dvc.lock of a file system (such as a repository's `dvcfs`).

    Those whose three stages belong together: none has run again without the next.
    """
    stages = yaml.safe_load(files.cat_file("/dvc.lock"))["stages"]
    for name in stages:
        kind, _, network = name.partition("@")
        if kind != "evaluate":
            continue
        chain = stages["prepare"], stages[f"train@{network}"], stages[name]
        written = {out["path"]: out["md5"] for stage in chain for out in stage["outs"]}
        read = [dep for stage in chain for dep in stage["deps"]]
        if any(written.get(dep["path"], dep["md5"]) != dep["md5"] for dep in read):
            continue
        del written[str(RECORDS_FOLDER)]
        written |= {f"{RECORDS_FOLDER}/{file}": "" for file in ("manifest.json", EXAMPLES_FILE)}
        params: dict[str, Any] = {"test_time_flip": False}  # before there was the choice
        for stage in chain:
            params |= _params(stage)
        own = params.pop(network, {})
        yield Trained(network, flatten(params) | flatten(own), f"models/{network}.keras", written)


def _params(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's parameters as `Params` has them: 1 as 1.0 where it is a float."""
    values = dict(stage["params"]["params.yaml"])
    for key in values.keys() & Params.model_fields.keys():
        with contextlib.suppress(ValidationError):  # of another form of params.yaml
            kind: Any = TypeAdapter(Params.__annotations__[key])
            values[key] = kind.dump_python(kind.validate_python(values[key]))
    return values


def sync_network(repo: Repo, experiment: str, found: Trained, origin: Mapping[str, Any]) -> str:
    """Fill in the run of a network of the revision that `repo` is switched to, and say so.

    Returns "added", "completed", "incomplete" or "there already". Raises StageError if the store
    fails.
    """
    md5, title = found.files[found.model], f"{found.network} · {origin['title']}"
    try:
        before = run.find_run(experiment, md5, found.params["test_time_flip"])
        if before and model_id(before):
            if {run.EVALUATION_TAG, REGISTERED_TAG} <= before.data.tags.keys():
                return "there already"
            del found.files[found.model]
        with tempfile.TemporaryDirectory() as name:
            folder, manifest = Path(name), None
            model, missing = gather(repo, found, folder)
            with contextlib.suppress(StageError):
                manifest = read_manifest(folder / RECORDS_FOLDER)
            training = run.Training(found.network, found.params, manifest, **origin)
            added = run.record(experiment, training, before, md5, model, folder)
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(f"{title}: {trouble(error)}") from error
    outcome = "added" if not before else "completed" if added else "incomplete"
    print("; ".join([f"{outcome}: {title}", *(f"now with its {part}" for part in added), *missing]))
    return outcome


def gather(repo: Repo, found: Trained, folder: Path) -> tuple[Any, list[str]]:
    """Copy what `run.record` reads; return the Keras model, or None, and what is missing."""
    model, missing = None, []
    for path, md5 in found.files.items():
        target = folder / path
        with contextlib.suppress(Exception):  # no such file, remote, network, login: all the same
            repo.dvcfs.get_file(f"/{path}", str(target))
        # The workspace's may be another than that of its dvc.lock.
        if target.exists() and md5 not in {"", run.file_md5(target)}:
            target.unlink()
        if not target.exists():
            missing.append(f"{path} is in neither Git, the cache nor the remote")
    try:
        if (folder / found.model).exists():
            model = run.load_model(folder / found.model)
    except Exception as error:  # another Keras, or code that is no longer there
        missing.append(f"{found.model} cannot be loaded: {one_line(error)}")
    results = folder / f"metrics/{found.network}.json"
    try:
        Results.read(results, f"evaluate@{found.network}")
    except StageError:
        results.unlink(missing_ok=True)
        missing.append("it has no test metrics of this form")
    return model, missing


if __name__ == "__main__":
    run_stage("sync", sync)
