"""Fill in the MLflow runs of all that DVC has: `make sync`.

A stage that DVC takes from its cache, that ran while MLflow was unavailable, or on another machine,
logs nothing here. This adds what the store lacks of the networks in the dvc.lock of each branch, of
each experiment and of the workspace. What the store has stays as it is.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import NoSCM
from pydantic import TypeAdapter, ValidationError

from stages.metrics.results import Results
from stages.params import Params, flat
from stages.records.manifest import EXAMPLES_FILE, RECORDS_FOLDER, read_manifest
from stages.runs import run, tracking
from stages.runs.registry import REGISTERED_TAG, model_id
from stages.runs.tracking import one_line, open_experiment, trouble
from stages.stage import StageError, run_stage


class Trained(NamedTuple):
    """A network as a dvc.lock has it."""

    network: str
    params: dict[str, Any]  # flat, as a run has them
    model_md5: str
    md5: dict[str, str]  # by path: of the network, its history, and what `evaluate` wrote
    evaluated: bool
    records: bool  # whether data/records are those that it was trained on


def sync() -> None:
    """Fill in the runs, and print a line for each that was added or is incomplete.

    Raises:
        StageError: The project is not a DVC repository, or the store is unavailable.
    """
    try:
        repo = Repo(str(tracking.ROOT))
        experiment = open_experiment()
    except NotDvcRepoError as error:
        raise StageError(f"{tracking.ROOT} is not a DVC repository: `dvc init` first") from error
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(trouble(error)) from error
    outcomes = Counter(dict.fromkeys(("added", "completed", "there already"), 0))
    seen = set()
    for rev, origin in revisions(repo):
        try:
            with repo.switch(rev):
                for found in trained_networks(repo.dvcfs):
                    key = (found.model_md5, str(found.params["test_time_flip"]))
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

    The first that has a network names its run: a network that an experiment has not changed is that
    of the branch.
    """
    scm, commit = repo.scm, ""
    if not isinstance(scm, NoSCM):
        current = scm.get_ref("HEAD", follow=False)
        commit = scm.get_rev() if scm.get_ref("HEAD") else ""
        found: list[tuple[tuple[bool, ...], str, dict[str, Any]]] = []
        for ref in [*scm.iter_refs("refs/heads/"), *scm.iter_refs("refs/remotes/")]:
            rev, order = scm.get_ref(ref), (ref != current, ref.startswith("refs/remotes/"))
            found.append(
                (order, rev, {"title": f"{ref.split('/', 2)[2]} {rev[:7]}", "commit": rev})
            )
        for base, names in repo.experiments.ls(all_commits=True).items():
            for name, rev in names:
                origin = {"title": name, "commit": base, "experiment": name, "baseline": base}
                found.append(((True, True, True), rev, origin))
        for _, rev, origin in found:
            origin["time"] = scm.resolve_commit(rev).commit_time * 1000
        found.sort(key=lambda revision: (revision[0], revision[2]["time"], revision[2]["title"]))
        yield from ((rev, origin) for _, rev, origin in found)
    lock = Path(repo.root_dir) / "dvc.lock"
    if lock.exists():
        time = lock.stat().st_mtime
        title = f"{datetime.fromtimestamp(time):%m-%d %H:%M}"
        yield "workspace", {"title": title, "commit": commit, "time": int(time * 1000)}


def trained_networks(files: Any) -> Iterator[Trained]:
    """The networks of the dvc.lock of a file system (such as a repository's `dvcfs`).

    Raises:
        ValueError: There is none.
    """
    if not files.exists("/dvc.lock"):
        raise ValueError("it has no dvc.lock")
    stages = yaml.safe_load(files.cat_file("/dvc.lock"))["stages"]
    params_file = yaml.safe_load(files.cat_file("/params.yaml"))
    records = str(RECORDS_FOLDER)
    for network in [name.removeprefix("train@") for name in stages if name.startswith("train@")]:
        model, train = f"models/{network}.keras", stages[f"train@{network}"]
        evaluate = stages.get(f"evaluate@{network}", {})
        md5, measured = _checksums(train, "outs"), _checksums(evaluate, "deps")
        trained_on = _checksums(train, "deps").get(records)
        evaluated = (measured.get(model), measured.get(records)) == (md5[model], trained_on)
        same_records = _checksums(stages["prepare"], "outs").get(records) == trained_on
        params = _params(stages["prepare"]) if same_records else {}
        # How a network will be evaluated that has not been; False before there was the choice.
        keys = {"extremes", "test_time_flip"} & params_file.keys()
        params |= {"test_time_flip": False} | {key: params_file[key] for key in keys}
        params |= _params(train)
        if evaluated:
            params |= _params(evaluate)
            md5 |= _checksums(evaluate, "outs")
        own = params.pop(network, {})
        yield Trained(network, flat(params) | flat(own), md5[model], md5, evaluated, same_records)


def _checksums(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in stage.get(kind, [])}


def _params(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's parameters as `Params` has them: 1 as 1.0 where it is a float."""
    values = dict(stage.get("params", {}).get("params.yaml", {}))
    for key, value in values.items():
        with contextlib.suppress(KeyError, ValidationError):  # of another form of params.yaml
            annotation: Any = Params.model_fields[key].annotation
            kind = TypeAdapter(annotation)
            values[key] = kind.dump_python(kind.validate_python(value))
    return values


def sync_network(repo: Repo, experiment: str, found: Trained, origin: Mapping[str, Any]) -> str:
    """Add what the store lacks of a network of the revision that `repo` is switched to.

    Returns:
        "added", "completed", "incomplete" or "there already".

    Raises:
        StageError: The store has failed.
    """
    try:
        before = run.find_run(experiment, found.model_md5, found.params["test_time_flip"])
        logged = before is not None and model_id(before) is not None
        tags = before.data.tags.keys() if before else set()
        if logged and (not found.evaluated or {run.EVALUATION_TAG, REGISTERED_TAG} <= tags):
            return "there already"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model, missing = gather(repo, found, folder, with_model=not logged)
            manifest = None
            with contextlib.suppress(StageError):
                manifest = read_manifest(folder / RECORDS_FOLDER)
            training = run.Training(found.network, found.params, manifest, **origin)
            arguments = (before, found.model_md5, model, folder)
            added, verdict = run.record(experiment, training, *arguments)
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(f"{found.network} of {origin['title']}: {trouble(error)}") from error
    outcome = "added" if before is None else "completed" if added else "incomplete"
    run_name = before.info.run_name if before else f"{found.network} · {training.title}"
    has = f" now has its {' and its '.join(added)}" if added else ""
    print("; ".join([f"{outcome}: {run_name}{has if before else ''}", *missing]))
    print(f"  {verdict}\n" if verdict else "", end="")
    return outcome


def gather(repo: Repo, found: Trained, folder: Path, with_model: bool) -> tuple[Any, list[str]]:
    """Copy what `run.record` reads; return the Keras model, or None, and what is missing."""
    stem, model_path = f"metrics/{found.network}", f"models/{found.network}.keras"
    results = f"{stem}.json"
    evaluation = [f"{stem}.{kind}" for kind in ("images.csv", "worst.png", "best.png")] + [results]
    records = [f"{RECORDS_FOLDER}/{name}" for name in ("manifest.json", EXAMPLES_FILE)]
    paths = [*([model_path] if with_model else []), f"{stem}.history.csv"]
    paths += (records if found.records else []) + (evaluation if found.evaluated else [])
    missing = []
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # no such file, remote, network, login: all the same
            repo.dvcfs.get_file(f"/{path}", str(target))
        # A file that dvc.lock names must be that one.
        if target.exists() and found.md5.get(path) not in {None, run.file_md5(target)}:
            target.unlink()
        if not target.exists():
            missing.append(f"{path} is in neither Git, the cache nor the remote")
    model = None
    try:
        model = run.load_model(folder / model_path) if (folder / model_path).exists() else None
    except Exception as error:  # another Keras, or code that is no longer there
        missing.append(f"{model_path} cannot be loaded: {one_line(error)}")
    try:
        Results.read(folder / results, f"evaluate@{found.network}")
    except StageError:
        (folder / results).unlink(missing_ok=True)
        missing.append("it has no test metrics of this form")
    return model, missing


if __name__ == "__main__":
    run_stage("sync", sync)
