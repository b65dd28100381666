"""MLflow's model registry: a registered model for each network, a champion for each test split.

The alias names the dataset and its test split, for metrics compare on the same images only. It
moves to a new version if the 95 % interval of the paired difference of the mean IoU lies above
zero; the version's description says why it has or has not. A version is judged once.
"""

import contextlib
import hashlib
import io
import re
import tempfile
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from stages.metrics.bootstrap import paired_difference
from stages.metrics.confusion import mean_iou
from stages.metrics.results import confusion_of, read_images
from stages.records.manifest import Manifest
from stages.stage import ROOT

REGISTERED_TAG = "registry.version"  # a run's tag: it is registered and judged


def champion_alias(manifest: Manifest) -> str:
    """Alias of the best version on a test split, such as `champion-oxford_iiit_pet-3f9a1c`."""
    dataset = re.sub(r"[^\w-]", "-", manifest.dataset)  # all that an alias may have
    split = f"{manifest.splits['test'].model_dump_json()} {manifest.image_size}"
    md5 = hashlib.md5(f"{split} {manifest.class_names}".encode()).hexdigest()  # noqa: S324
    return f"champion-{dataset}-{md5[:6]}"


def model_id(run: Run) -> str | None:
    """Id of the network that a run has logged; None without one."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return outputs[-1].model_id if outputs else None


def register(run: Run, images: Path, manifest: Manifest) -> None:
    """Register the network of a run, and judge it and say so unless that was done before.

    The run has a logged network and its evaluation, on the manifest's records; `images` is its
    metrics/<network>.images.csv.
    """
    client, name = MlflowClient(), f"pet-segmentation-{run.data.params['network']}"
    alias, source = champion_alias(manifest), f"models:/{model_id(run)}"
    # One at a time: of two that are judged against the same champion, the lesser could come last.
    with FileLock(ROOT / ".dvc" / "tmp" / "mlflow-registry.lock", timeout=120):
        found = client.search_model_versions(f"name = '{name}' and source_path = '{source}'")
        with contextlib.redirect_stderr(io.StringIO()):  # it reports each step
            version = found[0] if found else mlflow.register_model(source, name)
        number = version.version
        if not version.description:
            # Numbers in a database, text on a server.
            champion = str(client.get_registered_model(name).aliases.get(alias, number))
            better, reason = True, "the first on this test split"
            if champion != str(number):
                better, reason = _judged(run, images, client.get_model_version(name, champion))
            if better:
                client.set_registered_model_alias(name, alias, number)
            client.update_model_version(name, number, description=reason)
            outcome = "becomes" if better else "does not become"
            print(f"{name} version {number} {outcome} {alias}: {reason}")
        client.set_tag(run.info.run_id, REGISTERED_TAG, f"{name} {number}")


def _judged(run: Run, images: Path, champion: ModelVersion) -> tuple[bool, str]:
    """Whether the network of a run is better than the champion, and why."""
    client, of, champion_id = MlflowClient(), f"version {champion.version}", str(champion.run_id)
    by_hand = "set the alias by hand if it should be the champion"
    try:
        other_run = client.get_run(champion_id)
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(champion_id, images.name, folder)
            other = read_images(Path(path), "evaluate")
    except Exception:  # deleted, or in another form: MLflow raises what its store raises
        return False, f"the metrics of {of}'s test images are unavailable; {by_hand}"
    if run.data.params["test_time_flip"] != other_run.data.params["test_time_flip"]:
        return False, f"{of} was evaluated with another test_time_flip; {by_hand}"
    table = read_images(images, "evaluate")
    counts = confusion_of(table), confusion_of(other)
    # One seed, whatever the versions were trained with.
    value, low, high = paired_difference(*counts, mean_iou, seed=0)
    difference = f"mean IoU {value:+.3f} ({low:+.3f} to {high:+.3f})"
    return bool(low > 0), f"{difference} against {of}, paired over {len(table)} test images"
