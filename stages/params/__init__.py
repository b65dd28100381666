"""The typed parameters of the pipeline: params.yaml, checked as a whole before a stage starts."""

import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from stages.stage import StageError

PARAMS_FILE = Path("params.yaml")
NETWORKS = sorted(p.parts[-2] for p in Path(__file__).parents[1].glob("networks/*/network.py"))
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=1, le=1_000_000)]  # TensorFlow counts in 64 bits
Format = Literal[
    "saved_model", "litert_float32", "litert_float16", "litert_dynamic", "litert_int8", "onnx"
]


class _Group(BaseModel):
    # strict: "40" is not 40, and true is not 1.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Own(_Group):
    """The folder of `dataset: own`."""

    folder: Text
    test_share: float = Field(gt=0, lt=1)
    border_width: float = Field(gt=0, le=0.2)


class Augmentation(_Group):
    """Random changes of the training images, drawn again in each epoch."""

    horizontal_flip: bool
    crop_scale: float = Field(gt=0, le=1)
    crop_aspect: float = Field(ge=1, le=4)
    brightness: float = Field(ge=0, lt=1)
    contrast: float = Field(ge=0, lt=1)
    saturation: float = Field(ge=0, lt=1)


class Loss(_Group):
    """Cross-entropy, and what is added to it."""

    label_smoothing: float = Field(ge=0, lt=1)
    border_weight: float = Field(gt=0, le=100)
    dice_weight: float = Field(ge=0, le=100)
    lovasz_weight: float = Field(ge=0, le=100)


class Export(_Group):
    """The exported formats, and how much they may lose."""

    formats: list[Format] = Field(min_length=1)
    calibration_images: int = Field(ge=1, le=10_000)
    max_iou_loss: float = Field(ge=0, le=1)


class NetworkParams(_Group):
    """What every network's group has."""

    learning_rate: float = Field(gt=0, le=1)


class UNetParams(NetworkParams):
    """The `unet` group."""

    encoder_weights: Text
    train_encoder: bool
    encoder_learning_rate_factor: float = Field(gt=0, le=1)
    encoder_batch_statistics: Literal["batch", "stored"]
    input_range: Literal["signed_unit", "unit"]
    batch_norm_momentum: float = Field(gt=0, lt=1)
    upsampling_block: Literal["project", "tensorflow_examples"]


class Params(_Group):
    """All of params.yaml; each further network of stages/networks/ adds a `NetworkParams` group."""

    seed: int = Field(ge=0, lt=2**31)
    networks: list[str] = Field(min_length=1)
    dataset: Text
    own: Own
    train_split: Text
    test_split: Text
    validation_share: float = Field(gt=0, lt=1)
    image_size: int = Field(ge=32, le=1024, multiple_of=32)
    train_image_scale: float = Field(ge=1, le=4)
    shard_size: Count
    examples: int = Field(ge=1, le=64)
    extremes: int = Field(ge=1, le=64)
    epochs: Count
    batch_size: Count
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_epochs: int = Field(ge=0, le=1_000_000)
    weight_decay: float = Field(ge=0, lt=1)
    ema_momentum: float = Field(ge=0, lt=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    distribution: Literal["none", "mirrored", "multi_worker"]
    augmentation: Augmentation
    loss: Loss
    test_time_flip: bool
    export: Export
    conv_deconv: NetworkParams
    unet: UNetParams

    @field_validator("networks")
    @classmethod
    def _known(cls, networks: list[str]) -> list[str]:
        # A name becomes part of paths and of a module.
        if sorted(set(networks) & set(NETWORKS)) != sorted(networks):
            raise ValueError(f"{', '.join(NETWORKS)} may be named, each of them once")
        return networks

    def network(self, name: str) -> NetworkParams:
        """The group of a network."""
        return getattr(self, name)

    def groups(self) -> list[str]:
        """Names of all networks that have a group, whether or not they are in `networks`."""
        return [key for key, value in self if isinstance(value, NetworkParams)]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check a parameter file as DVC reads it: YAML 1.2, no key twice."""
    content = path.read_bytes()
    try:
        values = YAML(typ="safe").load(content.decode())
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StageError(f"{path}: line {line}: not valid YAML: {error.problem}") from error
    except Exception as error:  # `!!int x` is a ValueError
        raise StageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return check_params(values, str(path))


def check_params(values: Any, source: str = str(PARAMS_FILE)) -> Params:
    """Check parameter values; StageError has `source`, key, value and rule of each problem."""
    schema = Params
    if added := dict.fromkeys(set(NETWORKS) - set(Params.model_fields), NetworkParams):
        schema = create_model("Params", __base__=Params, **added)  # type: ignore[call-overload]
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            parts = [source, repr(".".join(map(str, problem["loc"])))[1:-1][:100]]
            if problem["type"] not in ("missing", "extra_forbidden"):
                # Not `repr`: a few nested YAML aliases make a value that takes forever to write.
                parts.append(reprlib.repr(problem["input"])[:80])
            lines.append(": ".join(filter(None, [*parts, problem["msg"]])))
        raise StageError("\n".join(lines)) from error


def check_network(name: str, params: Params) -> None:
    """Raise StageError unless `name`, from a command line, is a network with parameters."""
    if name not in params.groups():
        raise StageError(f"no network {name!r}; there are {', '.join(params.groups())}")
