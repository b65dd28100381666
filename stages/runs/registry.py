"""MLflow's model registry: each network is a registered model, its best version the champion.

A version is judged once, when it is registered: the alias `champion` moves to it only if the 95 %
interval of the paired difference of the mean IoU, over the same test pictures, lies above zero. Why
it has or has not is the description of the version.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import mlflow
import numpy as np
from filelock import FileLock
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from stages.metrics.bootstrap import paired_difference
from stages.metrics.confusion import mean_iou
from stages.metrics.image_table import read_image_table
from stages.records.manifest import Manifest
from stages.runs import tracking
from stages.runs.contents import model_id, test_split_digest
from stages.runs.tracking import EXPERIMENT

CHAMPION = "champion"
# Tags of a version: whether it became the champion, and how it was measured.
VERDICT, SPLIT, FLIP = "verdict", "test_split.md5", "test_time_flip"
# A tag of a run: it is registered and judged.
REGISTERED_TAG = "registry.version"
# Of the bootstrap. One for all, since a version and the champion may have been trained with others.
SEED = 0


def registered_name(network: str) -> str:
    """The name of a network's registered model, such as `pet-segmentation-unet`."""
    return f"{EXPERIMENT}-{network}"


def register(run: Run, images: Path, manifest: Manifest) -> str:
    """Registers the network of a run, judges it, and says in a line what came of it.

    Args:
        run: With a logged network and its evaluation.
        images: The network's metrics/<network>.images.csv.
        manifest: Of the records that it was tested on.

    Returns:
        The line; empty where the run has no network, or was judged before.

    Raises:
        MlflowException: The store cannot be used.
    """
    network = run.data.params["network"]
    model = model_id(run)
    if model is None:
        return ""
    client, name = mlflow.MlflowClient(), registered_name(network)
    lock = tracking.ROOT / ".dvc" / "tmp" / "mlflow-registry.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    line = ""
    # One at a time: of two that are judged against the same champion, the lesser could come last.
    with FileLock(lock, timeout=120):
        version = _version(name, model, {SPLIT: test_split_digest(manifest), **_measure(run)})
        if VERDICT not in version.tags:
            better, reason = _judged(version, _champion(name), images, manifest)
            if better:
                client.set_registered_model_alias(name, CHAMPION, version.version)
            client.update_model_version(name, version.version, description=reason)
            verdict = "champion" if better else "no champion"
            client.set_model_version_tag(name, version.version, VERDICT, verdict)
            outcome = "is the champion" if better else "does not replace the champion"
            line = f"{name} version {version.version} {outcome}: {reason}"
        client.set_tag(run.info.run_id, REGISTERED_TAG, f"{name} {version.version}")
    return line


def _measure(run: Run) -> dict[str, str]:
    return {FLIP: run.data.params.get("test_time_flip", "")}


def _version(name: str, model: str, tags: dict[str, str]) -> ModelVersion:
    """The registered version of a logged model, made if need be."""
    client = mlflow.MlflowClient()
    source = f"models:/{model}"
    for version in _versions(name):
        if version.source == source:
            return version
    with contextlib.redirect_stderr(io.StringIO()):  # it speaks of each step
        made = mlflow.register_model(source, name, tags=tags)
    return client.get_model_version(name, made.version)


def _versions(name: str) -> Iterable[ModelVersion]:
    client, token = mlflow.MlflowClient(), None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        yield from page
        if not (token := page.token):
            return


def _champion(name: str) -> ModelVersion | None:
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    if CHAMPION not in aliases:
        return None
    return mlflow.MlflowClient().get_model_version(name, aliases[CHAMPION])


def _judged(
    version: ModelVersion, champion: ModelVersion | None, images: Path, manifest: Manifest
) -> tuple[bool, str]:
    """Whether a version is better than the champion, and why."""
    if champion is None or champion.version == version.version:
        return True, "there is no other"
    by_hand = "set the alias by hand if it should be the champion"
    of = f"version {champion.version}"
    for tag, difference in (
        (SPLIT, "on another test split"),
        (FLIP, "with another test_time_flip"),
    ):
        if version.tags.get(tag) != champion.tags.get(tag):
            return False, f"{of} was measured {difference}; {by_hand}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = mlflow.artifacts.download_artifacts(
                run_id=champion.run_id,
                artifact_path=f"{version.name.removeprefix(f'{EXPERIMENT}-')}.images.csv",
                dst_path=folder,
            )
            others = read_image_table(Path(file), manifest.class_names)
        except Exception:  # deleted, or of another form: MLflow raises what its store raises
            return False, f"the pictures' figures of {of} cannot be read any more; {by_hand}"
    table = read_image_table(images, manifest.class_names)
    if table.file_names != others.file_names:
        return False, f"{of} was measured on other test pictures; {by_hand}"
    value, low, high = paired_difference(table.matrices, others.matrices, mean_iou, seed=SEED)
    better = bool(low > 0)
    if np.isnan(low):
        return False, f"its mean IoU cannot be compared with that of {of}"
    return better, (
        f"mean IoU {value:+.3f} ({low:+.3f} to {high:+.3f}) against {of},"
        f" paired over {len(table.file_names)} test pictures"
    )
