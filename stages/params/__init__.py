"""The typed parameters of the pipeline: params.yaml, checked as a whole before a stage starts."""

import re
import reprlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stages.stage import StageError

PARAMS_FILE = Path("params.yaml")
NETWORKS_FOLDER = Path(__file__).parents[1] / "networks"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

# A network's name becomes part of file names and of a module's name, so it must be an identifier.
NetworkName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter and looser than it by one thing each.

    It refuses a key that is there twice, where PyYAML takes the last one, and it reads small
    numbers as `dvc exp run -S` writes them.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys differ."""
        places: dict[Any, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *defaults`
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable):
                if key in places:
                    raise yaml.YAMLError(f"{_shown(key)} is in lines {places[key]} and {line}")
                places[key] = line
        return super().construct_mapping(node, deep)


# `-S unet.learning_rate=0.00001` writes 1e-05, which is text to PyYAML: it wants a dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9](\.[0-9]+)?e[-+][0-9]{2,}$"),
    list("-+0123456789"),
)


class _Group(BaseModel):
    # strict: no silent conversion, so "40" is not 40 and true is not 1.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Augmentation(_Group):
    """Random changes of the training images, drawn anew in each epoch."""

    horizontal_flip: bool
    crop_scale: float = Field(gt=0, le=1)
    crop_aspect: float = Field(ge=1, le=4)
    brightness: float = Field(ge=0, lt=1)
    contrast: float = Field(ge=0, lt=1)
    saturation: float = Field(ge=0, lt=1)


class Loss(_Group):
    """What is minimised: cross-entropy, and what is added to it."""

    label_smoothing: float = Field(ge=0, lt=1)
    border_weight: float = Field(gt=0, le=100)
    dice_weight: float = Field(ge=0, le=100)
    lovasz_weight: float = Field(ge=0, le=100)


class Export(_Group):
    """What becomes of a trained network, and how much it may lose."""

    formats: list[
        Literal["saved_model", "litert_float32", "litert_float16", "litert_int8", "onnx"]
    ] = Field(min_length=1)
    calibration_images: int = Field(ge=1, le=10_000)
    max_iou_loss: float = Field(ge=0, le=1)


class NetworkParams(_Group):
    """What every network's group has."""

    learning_rate: float = Field(gt=0, le=1)


# No training has more steps or epochs, and TensorFlow counts in 64 bits.
Count = Annotated[int, Field(le=1_000_000)]


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
    """All of params.yaml.

    A network that is not named here has a group of its own with the keys of `NetworkParams`;
    such groups are in `model_extra` and are reached through `network`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, NetworkParams]

    seed: int = Field(ge=0, lt=2**31)
    networks: list[NetworkName] = Field(min_length=1)
    dataset: Text
    train_split: Text
    test_split: Text
    validation_share: float = Field(gt=0, lt=1)
    image_size: int = Field(ge=32, le=1024, multiple_of=32)
    train_image_scale: float = Field(ge=1, le=4)
    shard_size: Count = Field(ge=1)
    examples: int = Field(ge=1, le=64)
    extremes: int = Field(ge=1, le=64)
    epochs: Count = Field(ge=1)
    batch_size: Count = Field(ge=1)
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_epochs: Count = Field(ge=0)
    weight_decay: float = Field(ge=0, lt=1)
    ema_momentum: float = Field(ge=0, lt=1)
    batch_norm_batches: Count = Field(ge=0)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    distribution: Literal["none", "mirrored"]
    augmentation: Augmentation
    loss: Loss
    test_time_flip: bool
    export: Export
    conv_deconv: NetworkParams
    unet: UNetParams

    def network(self, name: str) -> NetworkParams:
        """The group of the network `name`."""
        return getattr(self, name)

    def groups(self) -> list[str]:
        """The names of all networks that have a group, whether or not they are in `networks`."""
        return [
            name for name in self.model_dump() if isinstance(getattr(self, name), NetworkParams)
        ]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks a parameter file.

    Args:
        path: A YAML file with exactly the keys of `Params` and one group for each further network.

    Returns:
        The checked parameters.

    Raises:
        StageError: The file is missing, is not YAML, or has unknown, missing or wrong values; one
            line for each of them with the key's path, the value and what is allowed.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  safe, as its base
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise StageError(f"{path} is not valid YAML: it is nested too deep") from error
    # Besides its own errors, PyYAML lets through what Python says to a value that is not of the
    # type of its tag: the date 2000-13-01, a number of 5,000 digits, `!!int x`.
    except Exception as error:
        raise StageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise StageError(f"{path} must hold `key: value` lines, but holds {_shown(values)}")
    return check_params(values, str(path))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys: {"unet": {"learning_rate": 1}} -> {"unet.learning_rate": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def check_network(name: str, params: Params) -> None:
    """Checks the name of a network that a command line gives.

    Raises:
        StageError: It is not a network that has a group in the parameters.
    """
    if name not in params.groups():
        raise StageError(
            f"there is no network {_shown(name)} with a group in {PARAMS_FILE};"
            f" there are {', '.join(params.groups())}"
        )


def check_params(values: Mapping[Any, Any], source: str = str(PARAMS_FILE)) -> Params:
    """Checks parameter values.

    Args:
        values: The keys and values as YAML gives them.
        source: What the messages name as the place of the values.

    Returns:
        The checked parameters.

    Raises:
        StageError: As `load_params`.
    """
    problems = []
    for key in values:
        if key not in Params.model_fields and not _is_network(key):
            allowed = ", ".join(Params.model_fields)
            problems.append(
                f"{source}: {_plain(key)}: unknown key; allowed are {allowed}, and the names of"
                f" networks in {NETWORKS_FOLDER.parent.name}/{NETWORKS_FOLDER.name}/"
            )
    known = {key: value for key, value in values.items() if isinstance(key, str)}
    try:
        params = Params.model_validate(
            {key: known[key] for key in known if key in Params.model_fields or _is_network(key)}
        )
    except ValidationError as error:
        for details in error.errors():
            path = ".".join(_plain(part) for part in details["loc"])
            problems.append(f"{source}: {path}: {_explained(details)}")
    else:
        problems += _inconsistencies(params, source)
    if problems:
        raise StageError("\n".join(problems))
    return params


def _inconsistencies(params: Params, source: str) -> list[str]:
    problems = []
    for name in params.networks:
        if not _is_network(name):
            problems.append(
                f"{source}: networks: {name!r} has no stages/networks/{name}/network.py;"
                f" there are {', '.join(_network_names())}"
            )
        elif name not in Params.model_fields and name not in (params.model_extra or {}):
            problems.append(
                f"{source}: {name}: missing; the network {name!r} needs a group with at least"
                " learning_rate (a number above 0 and at most 1)"
            )
    if len(set(params.networks)) < len(params.networks):
        problems.append(f"{source}: networks: {params.networks} names a network twice")
    return problems


def _is_network(key: object) -> bool:
    return key in _network_names()


def _network_names() -> list[str]:
    return sorted(file.parent.name for file in NETWORKS_FOLDER.glob("*/network.py"))


def _shown(value: object) -> str:
    # Not `repr`: a handful of YAML aliases is a value that takes longer than a life to write out.
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(key: object) -> str:
    """A key as it stands in the file, or in quotes where it would not fit into a line."""
    return key if isinstance(key, str) and re.fullmatch(r"[\w.-]{1,60}", key) else _shown(key)


def _explained(details: Mapping[str, Any]) -> str:
    """Says what is wrong with one value, from one of pydantic's error records."""
    if details["type"] == "missing":
        return "missing; params.yaml holds every parameter"
    if details["type"] == "extra_forbidden":
        return f"unknown key (its value is {_shown(details['input'])})"
    # pydantic: "Input should be a valid integer", "String should match pattern '...'"
    allowed = details["msg"][0].lower() + details["msg"][1:]
    message = f"{_shown(details['input'])} is not allowed: {allowed}"
    if details["type"] == "float_type" and isinstance(details["input"], str):
        try:
            number = float(details["input"])
        except ValueError:
            return message
        message += f" (YAML reads this as text; write {number})"
    return message
