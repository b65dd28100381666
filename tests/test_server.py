"""Training and evaluation with a real MLflow server, which dies and comes back."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.server import app, constants, handlers
from werkzeug.serving import make_server

from stages.params import Params
from stages.runs.registry import champion_alias
from stages.runs.run import read_history
from stages.runs.tracking import TrainingRun, log_evaluation
from tests import stub_stages

MANIFEST = stub_stages.manifest()
UNET = "pet-segmentation-unet"


class _Server:
    """MLflow's server, in a thread of this process."""

    port = 0

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, app, threaded=True)
        self.port = self._server.port
        Thread(target=self._server.serve_forever, daemon=True).start()

    def kill(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(
    embedded_store: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_Server]:
    """A server with a database and artifacts of its own, which are not those of the default."""
    folder = embedded_store / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv(constants.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setenv(constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(folder / "mlartifacts"))
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, name, None)
    # The process is the client too.
    monkeypatch.setattr(handlers.utils, "set_tracking_uri", lambda uri: None)
    monkeypatch.setattr(handlers.registry_utils, "set_registry_uri", lambda uri: None)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not each request
    server = _Server()
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it is gone for good
    yield server
    server.kill()


def test_a_server_that_dies_costs_no_training_and_gets_the_run_when_it_is_back(
    server: _Server, color_networks: Path, params: Params, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    model, history = Path("unet.keras"), stub_stages.write_history("unet", 3)
    stub_stages.write_network(model, "unet", color_networks / "colors.keras")
    stub_stages.write_evaluation("unet", 0.8)

    def train(die: bool) -> None:
        with TrainingRun("unet", params, MANIFEST) as run:
            for row in read_history(history):
                run.log_epoch(row, seconds=1.0, images_per_second=1.0)
                if die:
                    server.kill()
            run.log_files(model, history)
        log_evaluation("unet", params, MANIFEST, model)

    train(die=True)
    warnings = capsys.readouterr().err.splitlines()
    prefix = f"warning: MLflow at http://127.0.0.1:{server.port} failed"
    assert [line.startswith(prefix) for line in warnings] == [True] * 2
    server.start()
    log_evaluation("unet", params, MANIFEST, model)
    client, alias = MlflowClient(), champion_alias(MANIFEST)
    champion = client.get_model_version_by_alias(UNET, alias)
    restored = client.get_run(str(champion.run_id))
    assert restored.data.metrics["test/accuracy"] == pytest.approx(0.8, abs=1e-3)
    assert str(restored.info.artifact_uri).startswith("mlflow-artifacts:/")
    assert list((tmp_path / "server").rglob("unet.images.csv"))
    assert mlflow.keras.load_model(f"models:/{UNET}@{alias}").count_params() == 12
    # Trained once more, on a server that lives: `evaluate` finds the newest run.
    train(die=False)
    newest = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")[0]
    assert newest.data.tags["registry.version"] == f"{UNET} 2"
    assert capsys.readouterr().err == ""
