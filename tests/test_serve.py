"""A network behind HTTP: MLflow's own server, its registry, and real requests."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

from pets import serve
from stages.runs import tracking
from stages.runs.contents import model_id
from stages.runs.registry import REGISTERED_TAG, registered_name
from tests.color_networks import photograph

ROOT = Path(__file__).resolve().parents[1]
STARTING_SECONDS = 180


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store of MLflow is."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def server(root: Path, color_networks: Path) -> Iterator[str]:
    """The address of `pets serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"DVC_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pets", "serve", "--models", str(color_networks)]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--network", "colors", "--port", str(port)],
            cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(STARTING_SECONDS * 4):
            assert process.poll() is None, (root / "log").read_text()
            try:
                if requests.get(f"{address}/ping", timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.25)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _post(server: str, *files: bytes) -> requests.Response:
    inputs = [base64.b64encode(file).decode() for file in files]
    return requests.post(f"{server}/invocations", json={"inputs": inputs}, timeout=60)


def test_pictures_go_in_and_their_masks_come_out(server: str) -> None:
    files = []
    for kind, size in (("PNG", (90, 60)), ("JPEG", (300, 400))):
        file = io.BytesIO()
        photograph(*size).save(file, kind)
        files.append(file.getvalue())
    answer = _post(server, *files)
    assert answer.status_code == 200, answer.text
    small, large = (
        Image.open(io.BytesIO(base64.b64decode(text))) for text in answer.json()["predictions"]
    )
    assert (small.mode, small.size, large.size) == ("P", (90, 60), (300, 400))
    classes = np.asarray(small)
    assert [classes[30, 45], classes[30, 26], classes[2, 2]] == [0, 2, 1]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_is_no_picture_gets_an_error_400_that_says_so(server: str, content: bytes) -> None:
    answer = _post(server, content)
    assert answer.status_code == 400
    assert "inputs[0] is " in answer.json()["message"]
    answer = requests.post(f"{server}/invocations", json={"inputs": ["?"]}, timeout=60)
    assert answer.status_code == 400


def test_a_network_is_registered_once_and_its_server_is_loopbacks(
    server: str, root: Path, color_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "ROOT", root)
    monkeypatch.setattr(tracking, "STORE", root / "mlflow.db")
    monkeypatch.setattr(tracking, "ARTIFACTS", root / "mlartifacts")
    name, client = "pet-segmentation-colors-server", MlflowClient(f"sqlite:///{root}/mlflow.db")
    assert serve.register(color_networks / "colors.keras") == f"models:/{name}/1"
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.tags == {"model.md5": tracking.file_md5(color_networks / "colors.keras")}
    assert version.description == "Photographs to masks, by colors.keras"
    assert "--host 127.0.0.1" in (root / "log").read_text()


def test_a_served_network_belongs_to_the_registered_one_and_leaves_its_run_alone(
    embedded_store: Path, color_networks: Path
) -> None:
    """What `evaluate` registers is the last model of the training's run: the network itself."""
    path = color_networks / "seen.keras"
    with mlflow.start_run(experiment_id=tracking.open_experiment()) as run:
        tags = {"model.md5": tracking.file_md5(path), REGISTERED_TAG: "pet-segmentation-seen 3"}
        mlflow.set_tags(tags)
    served = [serve.register(path) for _ in range(2)]
    assert served == [f"models:/{registered_name('seen')}-server/1"] * 2
    version = MlflowClient().get_model_version(f"{registered_name('seen')}-server", "1")
    assert version.description == "Photographs to masks, by pet-segmentation-seen 3"
    runs = mlflow.search_runs(experiment_names=[tracking.EXPERIMENT], output_format="list")
    assert [found.info.run_id for found in runs] == [run.info.run_id]
    assert model_id(runs[0]) is None


def test_a_network_that_is_not_there_says_where_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.serve(tmp_path, "unet", 5001) == 1
    assert "unet.keras: `dvc pull` fetches" in capsys.readouterr().err
