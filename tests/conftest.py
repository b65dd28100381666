"""What several tests share: parameters, and a folder of records of a handful of drawn pets."""

from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from stages.params import Params, load_params
from stages.records.manifest import Manifest, read_manifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed parameters, on 12 training and 6 test images and with 2 epochs."""
    few = {"dataset": "synthetic_pets/tiny", "validation_share": 0.3, "examples": 3}
    few |= {"shard_size": 4, "epochs": 2, "batch_size": 4}
    return load_params(ROOT / "params.yaml").model_copy(update=few)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the handful of pets is drawn once: what `open_dataset` takes."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def records(params: Params, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the handful of pets; read only."""
    from stages.prepare.__main__ import write_records  # noqa: PLC0415  TensorFlow takes seconds to import

    folder = tmp_path_factory.mktemp("records")
    write_records(params, folder, scratch)
    return folder


@pytest.fixture(scope="session")
def manifest(records: Path) -> Manifest:
    """The manifest of `records`."""
    return read_manifest(records)


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServerContext]:
    """What starts stages in real processes: the first argument of `end_of_stage`."""
    from tests.stage_process import stage_processes  # noqa: PLC0415

    with stage_processes() as context:
        yield context


@pytest.fixture(scope="session")
def color_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks of `tests.color_networks`; read only."""
    from tests.color_networks import write_networks  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("color_networks")
    write_networks(folder)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make; to be copied."""
    import mlflow  # noqa: PLC0415

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def embedded_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository root of its own for MLflow's embedded store; yields the root."""
    import mlflow  # noqa: PLC0415

    from stages.runs import registry, tracking  # noqa: PLC0415

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "ROOT", tmp_path)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    previous = mlflow.get_tracking_uri()
    yield tmp_path
    mlflow.set_tracking_uri(previous)
