"""MLflow's model registry: a registered model for each network, a champion for each test split.

The alias names the dataset and the test split, because metrics compare on the same images only:
one registered model with an alias for each purpose is how MLflow means aliases. A version is judged
once: the alias moves to it if the 95 % interval of the paired difference of the mean IoU lies above
zero. The version's description says why it has or has not.
"""

import contextlib
import hashlib
import io
import re
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from stages.metrics.bootstrap import paired_difference
from stages.metrics.confusion import mean_iou
from stages.metrics.results import confusion_of, read_images
from stages.records.manifest import Manifest
from stages.stage import ROOT

# Tags of a version: whether it became champion, the checksum of its test split.
VERDICT, SPLIT = "verdict", "test_split.md5"
# Tag of a run: it is registered and judged.
REGISTERED_TAG = "registry.version"
# Of the bootstrap: one for all versions, whatever seed they were trained with.
SEED = 0


def registered_name(network: str) -> str:
    """Name of a network's registered model, such as `pet-segmentation-unet`."""
    return f"pet-segmentation-{network}"


def champion_alias(manifest: Manifest) -> str:
    """Alias of the best version on a test split, such as `champion-oxford_iiit_pet-3f9a1c`."""
    dataset = re.sub(r"[^\w-]", "-", manifest.dataset)  # all that an alias may have
    return f"champion-{dataset}-{_split_md5(manifest)[:6]}"


def _split_md5(manifest: Manifest) -> str:
    """Checksum of the test split: of its files, and of what their pixels mean."""
    split = manifest.splits["test"].model_dump_json()
    text = f"{split} {manifest.image_size} {manifest.class_names}"
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324


def model_id(run: Run) -> str | None:
    """Id of the network that a run has logged; None without one."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return outputs[-1].model_id if outputs else None


def register(run: Run, images: Path, manifest: Manifest) -> str:
    """Register the network of a run and judge it, unless that is done.

    Args:
        run: With a logged network and its evaluation.
        images: The network's metrics/<network>.images.csv.
        manifest: Of the records that it was evaluated on.

    Returns:
        The verdict in one line; "" if the version was judged before.

    Raises:
        MlflowException: The store is unavailable.
    """
    client, name = MlflowClient(), registered_name(run.data.params["network"])
    lock = ROOT / ".dvc" / "tmp" / "mlflow-registry.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    line = ""
    # One at a time: of two that are judged against the same champion, the lesser could come last.
    with FileLock(lock, timeout=120):
        version = _version(name, f"models:/{model_id(run)}", manifest)
        if VERDICT not in version.tags:
            alias = champion_alias(manifest)
            better, reason = _judged(version, alias, images, run)
            if better:
                client.set_registered_model_alias(name, alias, version.version)
            client.update_model_version(name, version.version, description=reason)
            verdict = "champion" if better else "not champion"
            client.set_model_version_tag(name, version.version, VERDICT, verdict)
            outcome = "becomes" if better else "does not become"
            line = f"{name} version {version.version} {outcome} {alias}: {reason}"
        client.set_tag(run.info.run_id, REGISTERED_TAG, f"{name} {version.version}")
    return line


def _version(name: str, source: str, manifest: Manifest) -> ModelVersion:
    """The version of a logged model, registered if need be."""
    client = MlflowClient()
    found = client.search_model_versions(f"name = '{name}' and source_path = '{source}'")
    if found:
        return found[0]
    with contextlib.redirect_stderr(io.StringIO()):  # it reports each step
        tags = {"dataset": manifest.dataset, SPLIT: _split_md5(manifest)}
        made = mlflow.register_model(source, name, tags=tags)
    return client.get_model_version(name, made.version)


def _judged(version: ModelVersion, alias: str, images: Path, run: Run) -> tuple[bool, str]:
    """Whether a version becomes champion of its test split, and why."""
    client = MlflowClient()
    aliases = client.get_registered_model(version.name).aliases
    # Numbers in a database, text on a server.
    champion_version = str(aliases.get(alias, version.version))
    if champion_version == str(version.version):
        return True, "the first on this test split"
    of = f"version {champion_version}"
    by_hand = "set the alias by hand if it should be the champion"
    network = run.data.params["network"]
    try:
        champion = client.get_run(
            str(client.get_model_version(version.name, champion_version).run_id)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(champion.info.run_id, f"{network}.images.csv", folder)
            other = read_images(Path(path), f"evaluate@{network}")
    except Exception:  # deleted, or in another form: MLflow raises what its store raises
        return False, f"the metrics of {of}'s test images are unavailable; {by_hand}"
    if run.data.params["test_time_flip"] != champion.data.params["test_time_flip"]:
        return False, f"{of} was evaluated with another test_time_flip; {by_hand}"
    table = read_images(images, f"evaluate@{network}")
    if list(table.file_name) != list(other.file_name):
        return False, f"{of} was evaluated on other test images; {by_hand}"
    value, low, high = paired_difference(
        confusion_of(table), confusion_of(other), mean_iou, seed=SEED
    )
    if np.isnan(low):
        return False, f"its mean IoU cannot be compared with that of {of}"
    difference = f"mean IoU {value:+.3f} ({low:+.3f} to {high:+.3f})"
    return bool(low > 0), f"{difference} against {of}, paired over {len(table)} test images"
