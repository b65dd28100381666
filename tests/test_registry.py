"""MLflow's registry on a real store: registered networks, champions, and what serves them."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server

from stages.networks.model_file import load_model
from stages.params import Params
from stages.records.manifest import Manifest
from stages.runs.registry import champion_alias
from stages.runs.tracking import TrainingRun, log_evaluation
from tests import stub_stages
from tests.color_networks import photograph

NAME = "pet-segmentation-unet"
MODEL = Path("unet.keras")
DRAWN, CATS = stub_stages.manifest(), stub_stages.manifest("oxford_iiit_pet", "b")


@pytest.fixture(autouse=True)
def store(
    embedded_store: Path,
    empty_database: Path,
    color_networks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty store, in a working folder with a network."""
    shutil.copy(empty_database, embedded_store / "mlflow.db")
    shutil.copy(color_networks / "colors.keras", embedded_store / "network.keras")
    for folder in ("metrics", "data/records"):
        (embedded_store / folder).mkdir(parents=True)
    monkeypatch.chdir(embedded_store)


def _evaluate(params: Params, right: float, dataset: Manifest = DRAWN) -> str:
    """Trains and evaluates a network with this share of right pixels; returns its run's id."""
    stub_stages.write_network(MODEL, [right, params.test_time_flip])
    with TrainingRun("unet", params, dataset) as run:
        run.log_files(MODEL, stub_stages.write_history("unet", 3))
    stub_stages.write_evaluation("unet", right)
    log_evaluation("unet", params, dataset, MODEL)
    return run.run_id


def _champions() -> dict[str, int]:
    aliases = MlflowClient().get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in aliases.items()}


def test_the_champion_is_better_beyond_doubt_and_each_version_judged_once(
    params: Params, capsys: pytest.CaptureFixture
) -> None:
    _evaluate(params, 0.51)
    run_id = _evaluate(params, 0.8)
    client, alias = MlflowClient(), champion_alias(DRAWN)
    # As if the store had gone down before the alias, before the verdict, or after it.
    for moment in ("alias", "verdict", "tag"):
        client.delete_tag(run_id, "registry.version")
        if moment != "tag":
            client.update_model_version(NAME, "2", description="")
        if moment == "alias":
            client.set_registered_model_alias(NAME, alias, "1")
        capsys.readouterr()
        log_evaluation("unet", params, DRAWN, MODEL)
        out = capsys.readouterr().out
        assert (f"{NAME} version 2 becomes {alias}: mean IoU +0." in out) == (moment == "alias")
        assert _champions() == {alias: 2}
        assert client.get_run(run_id).data.tags["registry.version"] == f"{NAME} 2"
    _evaluate(params, 0.7)
    out = capsys.readouterr().out
    assert f"{NAME} version 3 does not become {alias}: mean IoU -0." in out
    assert _champions() == {alias: 2}
    first, second, third = (client.get_model_version(NAME, number) for number in "123")
    assert first.description == "the first on this test split"
    assert "against version 2, paired over 40 test images" in str(third.description)
    assert (second.run_id, len(client.search_model_versions())) == (run_id, 3)


def test_each_dataset_has_a_champion_that_a_better_network_on_it_replaces(
    params: Params, capsys: pytest.CaptureFixture
) -> None:
    drawn, real = champion_alias(DRAWN), champion_alias(CATS)
    assert real.startswith("champion-oxford_iiit_pet-")
    _evaluate(params, 0.8)
    _evaluate(params, 0.6, CATS)  # not as good as the other dataset's
    assert _champions() == {drawn: 1, real: 2}
    assert "version 2 becomes champion-oxford_iiit_pet" in capsys.readouterr().out
    _evaluate(params, 0.55, CATS)
    assert _champions() == {drawn: 1, real: 2}
    _evaluate(params, 0.7, CATS)
    assert _champions() == {drawn: 1, real: 4}
    _evaluate(params, 0.9)
    assert _champions() == {drawn: 5, real: 4}
    other = {"test_time_flip": not params.test_time_flip}
    _evaluate(params.model_copy(update=other), 0.95, CATS)
    assert _champions() == {drawn: 5, real: 4}
    out = capsys.readouterr().out
    assert "version 4 was evaluated with another test_time_flip; set the alias by hand" in out


def test_the_registered_network_predicts_the_same_and_answers_requests(
    params: Params, capfd: pytest.CaptureFixture
) -> None:
    """Loaded as by `mlflow models serve`."""
    image = np.asarray(photograph(32, 32))[None]
    np.savez("data/records/examples.npz", test_images=image)
    _evaluate(params, 0.8)
    uri = f"models:/{NAME}@{champion_alias(DRAWN)}"
    expected = load_model(MODEL)(image).numpy()
    np.testing.assert_array_equal(mlflow.keras.load_model(uri)(image).numpy(), expected)
    model = mlflow.pyfunc.load_model(uri)
    assert str(model.metadata.signature.inputs) == "[Tensor('float32', (-1, 32, 32, 3))]"
    np.testing.assert_array_equal(model.input_example, image.astype(np.float32))
    requirements = Path(mlflow.pyfunc.get_model_dependencies(uri)).read_text().split()
    packages = {line.split("==")[0] for line in requirements}
    assert packages == {"keras", "mlflow", "numpy", "tensorflow"}
    assert "WARNING mlflow" not in capfd.readouterr().err
    request = json.dumps({"inputs": model.input_example.tolist()})
    schema = model.metadata.get_input_schema()
    answer = scoring_server.invocations(request, "application/json", model, schema)
    assert answer.status == 200, answer.response
    logits = np.asarray(json.loads(answer.response)["predictions"])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
