import copy
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.flatten import flatten
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.params
from stages.params import UNetParams, check_network, check_params, load_params
from stages.stage import StageError

FILE = Path(__file__).resolve().parents[1] / "params.yaml"
TEXT = FILE.read_text()
COMMITTED: dict[str, Any] = load_yaml(FILE)  # as DVC reads it
EPOCHS_LINE = 1 + TEXT[: TEXT.index("\nepochs:") + 1].count("\n")


def _changed(path: str, value: object) -> dict[str, Any]:
    *groups, key = path.split(".")
    values = copy.deepcopy(COMMITTED)
    group = values
    for name in groups:
        group = group[name]
    group[key] = value
    return values


def _message(values: dict[Any, Any]) -> str:
    with pytest.raises(StageError) as error:
        check_params(values)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("epochs", "40", "epochs: '40': Input should be a valid integer"),
        ("epochs", True, "epochs: True: Input should be a valid integer"),
        ("epochs", 0, "epochs: 0: Input should be greater than or equal to 1"),
        ("image_size", 100, "image_size: 100: Input should be a multiple of 32"),
        ("validation_share", float("nan"), "validation_share: nan: Input should be a finite"),
        ("unet.learning_rate", "1e-3", "unet.learning_rate: '1e-3': Input should be a valid"),
        ("unet.upsampling_block", "mine", "'project' or 'tensorflow_examples'"),
        ("unet.dropout", 0.5, "unet.dropout: Extra inputs are not permitted"),
        ("loss.a\nb", 1, "loss.a\\nb: Extra inputs are not permitted"),
        ("x" * 300, {"y": 1}, f"{'x' * 99}: Extra inputs are not permitted"),
        ("networks", [], "networks: []: "),
        ("networks", ["unet", "unet"], "conv_deconv, unet may be named, each of them once"),
        ("networks", ["../unet"], "networks: ['../unet']: "),
        ("dataset", "pets\n", "dataset: 'pets\\n': "),
    ],
)
def test_one_line_says_key_value_and_what_is_allowed(
    path: str, value: object, expected: str
) -> None:
    message = _message(_changed(path, value))
    assert expected in message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


def test_every_problem_is_told_at_once() -> None:
    values = _changed("epochs", 0) | {"sed": 1}
    del values["seed"]
    lines = _message(values).splitlines()
    assert {line.split(": ")[1] for line in lines} == {"sed", "seed", "epochs"}
    missing = {f"params.yaml: {key}: Field required" for key in COMMITTED}
    assert set(_message({}).splitlines()) == missing


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(path=st.sampled_from(sorted(flatten(COMMITTED))), value=_ANYTHING)
def test_any_value_is_taken_as_it_is_or_refused_by_the_name_of_its_key(
    path: str, value: object
) -> None:
    try:
        assert flatten(check_params(_changed(path, value)).model_dump())[path] == value
    except StageError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(f"params.yaml: {path}") for line in lines)


def test_a_network_of_ones_own_needs_its_folder_and_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = _changed("networks", ["segnet"]) | {"segnet": {"learning_rate": 0.1}}
    assert "segnet: Extra inputs" in _message(values)
    monkeypatch.setattr(stages.params, "NETWORKS", ["conv_deconv", "segnet", "unet"])
    assert "segnet: Field required" in _message(_changed("networks", ["segnet"]))
    deep = {"learning_rate": 0.1, "depth": 3}
    assert "segnet.depth: Extra inputs" in _message(values | {"segnet": deep})
    params = check_params(values)
    assert params.network("segnet").learning_rate == 0.1
    assert sorted(params.groups()) == ["conv_deconv", "segnet", "unet"]


def _written(value: str) -> str:
    """The committed file with another text as the value of `epochs`."""
    return re.sub(r"(?m)^epochs: .*$", f"epochs: {value}", TEXT)


# Written out, the last of them would have 9 to the power of 20 parts.
_ALIASES = "k0: &k0 [x]\n" + "".join(
    f"k{n + 1}: &k{n + 1} [{', '.join([f'*k{n}'] * 9)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_written("5\nepochs: 6"), f"line {EPOCHS_LINE + 1}: not valid YAML: found duplicate key"),
        (_written("9" * 5000), "5000 digits"),
        (_written("9" * 30), "epochs: 999999999999"),
        (_written("!!python/object/apply:os.mkdir [run]"), "could not determine a constructor"),
        (_written("&a [*a]"), "epochs: [[["),
        (_written("yes"), "epochs: 'yes': "),
        (_ALIASES + _written("*k20"), "epochs: [["),
        (TEXT + "? [a]\n: 1\n", "params.yaml: "),
        ("", "None: Input should be a valid dictionary"),
        ("\udcff\udcfe", "codec can't decode"),
    ],
)
def test_what_yaml_makes_of_a_file_is_short_and_clear(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StageError, match=re.escape(reason)) as error:
        load_params(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + text.count(": &k")  # one for each unknown key of the aliases
    assert all("params.yaml: " in line and len(line) < 300 for line in lines)
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


def test_the_file_is_read_as_dvc_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copy(FILE, path)
    apply_overrides(str(path), ["unet.learning_rate=0.00001"])
    assert "learning_rate: 1e-05" in path.read_text()
    params = load_params(path)
    assert params.model_dump() == _changed("unet.learning_rate", 1e-5)
    assert isinstance(params.network("unet"), UNetParams)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(content=st.binary(max_size=12), place=st.integers(0, len(TEXT.encode())))
def test_any_bytes_in_the_file_are_read_as_dvc_reads_them_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, place: int
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "params.yaml"
    path.write_bytes(TEXT.encode()[:place] + content + TEXT.encode()[place:])
    try:
        assert load_params(path).model_dump() == load_yaml(path)
    except StageError as error:
        lines = str(error).splitlines()
        assert all("params.yaml: " in line for line in lines)


@pytest.mark.parametrize("name", ["../unet", "seed", "", "a\nb", "unet/", "model_dump"])
def test_a_name_that_is_not_a_network_is_refused(name: str) -> None:
    """Names of the command line become parts of paths and of modules."""
    params = load_params(FILE)
    with pytest.raises(StageError, match=r"there are conv_deconv, unet$") as error:
        check_network(name, params)
    assert "\n" not in str(error.value)
    check_network("unet", params)


def test_the_check_before_the_stages_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"params: params.yaml: No such"):
        runpy.run_module("stages.params", run_name="__main__")
    (tmp_path / "params.yaml").write_text(_written("-1"))
    with pytest.raises(SystemExit, match=r"params: params.yaml: epochs: -1: "):
        runpy.run_module("stages.params", run_name="__main__")
