"""A registered network behind MLflow's own server: `mlflow models serve`."""

import json
from pathlib import Path

import mlflow
import numpy as np
from mlflow.pyfunc import scoring_server

from stages.networks.model_file import load_model
from stages.params import Params
from stages.records.manifest import Manifest
from stages.runs.tracking import TrainingRun
from tests.color_networks import photograph


def test_a_registered_network_answers_requests_with_its_logits(
    embedded_store: Path, color_networks: Path, params: Params, manifest: Manifest
) -> None:
    path = color_networks / "colors.keras"
    history = embedded_store / "history.csv"
    history.write_text("epoch,loss,val_loss,val_accuracy,val_mean_iou\n1,1.0,1.0,0.5,0.3\n")
    with TrainingRun("conv_deconv", params, manifest) as run:
        run.log_files(path, history)
        run_id = run.run_id
    client = mlflow.MlflowClient()
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    source = f"models:/{outputs.model_outputs[0].model_id}"
    version = mlflow.register_model(source, "pet-segmentation-conv_deconv").version
    client.set_registered_model_alias("pet-segmentation-conv_deconv", "champion", version)
    model = mlflow.pyfunc.load_model("models:/pet-segmentation-conv_deconv@champion")
    image = np.asarray(photograph(32, 32), np.float32)
    answer = scoring_server.invocations(
        json.dumps({"inputs": [image.tolist()]}),
        "application/json",
        model,
        model.metadata.get_input_schema(),
    )
    assert answer.status == 200, answer.response
    logits = np.asarray(json.loads(answer.response)["predictions"])
    np.testing.assert_allclose(logits, load_model(path)(image[None]), atol=1e-4)
