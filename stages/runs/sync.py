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
from dvc.repo import Repo
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
    model: str  # path of the network's file
    # MD5 by path: of the network, its history and its evaluation, as far as there is one. "" for
    # files of the records that it was trained on, if they are there.
    files: dict[str, str]
    evaluated: bool


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

    The first that has a network names its run: a network that an experiment has not changed is that
    of the branch.
    """
    scm, found = repo.scm, []
    current = scm.get_ref("HEAD", follow=False)
    for ref in [*scm.iter_refs("refs/heads/"), *scm.iter_refs("refs/remotes/")]:
        rev, group = scm.get_ref(ref), (ref != current) + ref.startswith("refs/remotes/")
        found.append((group, f"{ref.split('/', 2)[2]} {rev[:7]}", rev, {"commit": rev}))
    for base, names in repo.experiments.ls(all_commits=True).items():
        origin = {"commit": base, "baseline": base}
        found += [(3, name, rev, origin | {"experiment": name}) for name, rev in names]
    times = {rev: scm.resolve_commit(rev).commit_time * 1000 for _, _, rev, _ in found}
    for _, title, rev, origin in sorted(found, key=lambda of: (of[0], times[of[2]], of[1])):
        yield rev, {"title": title, "time": times[rev], **origin}
    lock = Path(repo.root_dir) / "dvc.lock"
    if lock.exists():
        time = lock.stat().st_mtime
        title = f"{datetime.fromtimestamp(time):%m-%d %H:%M}"
        yield "workspace", {"title": title, "time": int(time * 1000)}


def trained_networks(files: Any) -> Iterator[Trained]:
    """The networks of the dvc.lock of a file system (such as a repository's `dvcfs`)."""
    if not files.exists("/dvc.lock"):
        raise ValueError("it has no dvc.lock")
    stages = yaml.safe_load(files.cat_file("/dvc.lock"))["stages"]
    params_file = yaml.safe_load(files.cat_file("/params.yaml"))
    records = str(RECORDS_FOLDER)
    prepared = _checksums(stages["prepare"], "outs").get(records)
    for network in [name.removeprefix("train@") for name in stages if name.startswith("train@")]:
        train, evaluate = stages[f"train@{network}"], stages.get(f"evaluate@{network}", {})
        trained, measured = _checksums(train, "outs"), _checksums(evaluate, "deps")
        trained_on, params = _checksums(train, "deps").get(records), {}
        if prepared == trained_on:
            params = _params(stages["prepare"])
            trained |= {f"{records}/{name}": "" for name in ("manifest.json", EXAMPLES_FILE)}
        # How a network will be evaluated that has not been; False before there was the choice.
        keys = {"extremes", "test_time_flip"} & params_file.keys()
        params |= {"test_time_flip": False} | {key: params_file[key] for key in keys}
        params |= _params(train)
        model = f"models/{network}.keras"
        evaluated = (measured.get(model), measured.get(records)) == (trained[model], trained_on)
        if evaluated:
            params |= _params(evaluate)
            trained |= _checksums(evaluate, "outs")
        own = params.pop(network, {})
        yield Trained(network, flat(params) | flat(own), model, trained, evaluated)


def _checksums(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in stage.get(kind, [])}


def _params(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's parameters as `Params` has them: 1 as 1.0 where it is a float."""
    values = dict(stage.get("params", {}).get("params.yaml", {}))
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
    md5 = found.files[found.model]
    try:
        before = run.find_run(experiment, md5, found.params["test_time_flip"])
        logged = before is not None and model_id(before) is not None
        tags = before.data.tags.keys() if before else set()
        if logged and (not found.evaluated or {run.EVALUATION_TAG, REGISTERED_TAG} <= tags):
            return "there already"
        if logged:
            del found.files[found.model]
        with tempfile.TemporaryDirectory() as name:
            folder, manifest = Path(name), None
            model, missing = gather(repo, found, folder)
            with contextlib.suppress(StageError):
                manifest = read_manifest(folder / RECORDS_FOLDER)
            training = run.Training(found.network, found.params, manifest, **origin)
            added, verdict = run.record(experiment, training, before, md5, model, folder)
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(f"{found.network} of {origin['title']}: {trouble(error)}") from error
    outcome, line = "added", f"{found.network} · {training.title}"
    if before:
        outcome, line = "completed" if added else "incomplete", str(before.info.run_name)
        line += f" now has its {' and its '.join(added)}" if added else ""
    print("; ".join([f"{outcome}: {line}", *missing]))
    if verdict:
        print(f"  {verdict}")
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
