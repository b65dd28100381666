import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.params import UNetParams, check_network, check_params, load_params
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
COMMITTED: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())


def _changed(path: str, value: object) -> dict[str, Any]:
    *groups, key = path.split(".")
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    group = values
    for name in groups:
        group = group[name]
    group[key] = value
    return values


def _message(values: dict[str, Any]) -> str:
    with pytest.raises(StageError) as error:
        check_params(values)
    return str(error.value)


def test_the_committed_file_is_good_and_has_a_key_epochs() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.epochs == COMMITTED["epochs"]
    assert isinstance(params.network("unet"), UNetParams)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("epochs", "40", "epochs: '40' is not allowed: input should be a valid integer"),
        ("epochs", True, "epochs: True is not allowed"),
        ("epochs", 0, "epochs: 0 is not allowed: input should be greater than or equal to 1"),
        ("epochs", 1.5, "epochs: 1.5 is not allowed"),
        ("epochs", None, "epochs: None is not allowed"),
        ("image_size", 100, "image_size: 100 is not allowed: input should be a multiple of 32"),
        (
            "train_image_scale",
            0.9,
            "train_image_scale: 0.9 is not allowed: input should be greater",
        ),
        ("validation_share", 1.0, "validation_share: 1.0 is not allowed"),
        ("validation_share", float("nan"), "validation_share: nan is not allowed"),
        ("unet.learning_rate", "1e-3", "write 0.001"),
        ("unet.learning_rate", "fast", "unet.learning_rate: 'fast' is not allowed"),
        ("unet.upsampling_block", "mine", "'project' or 'tensorflow_examples'"),
        ("unet.dropout", 0.5, "unet.dropout: unknown key"),
        ("augmentation.flip", True, "augmentation.flip: unknown key"),
        ("precision", "float16", "precision: 'float16' is not allowed"),
        ("epoch", 40, "epoch: unknown key; allowed are seed, networks"),
        ("networks", [], "networks: [] is not allowed"),
        ("networks", ["unet", "unet"], "names a network twice"),
        ("networks", ["segnet"], "'segnet' has no stages/networks/segnet/network.py"),
        ("networks", ["../unet"], "networks.0: '../unet' is not allowed"),
        ("dataset", "pets\n", "dataset: 'pets\\n' is not allowed"),
    ],
)
def test_one_line_says_key_value_and_what_is_allowed(
    path: str, value: object, expected: str
) -> None:
    message = _message(_changed(path, value))
    assert expected in message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


def test_small_numbers_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply_overrides(str(path), ["unet.learning_rate=0.00001"])
    assert "learning_rate: 1e-05" in path.read_text()
    assert load_params(path).unet.learning_rate == 1e-5
    path.write_text(path.read_text().replace("1e-05", "'1e-05'"))
    with pytest.raises(StageError, match="write 1e-05"):
        load_params(path)


def test_every_problem_is_told_at_once() -> None:
    values = _changed("epochs", 0) | {"sed": 1}
    del values["seed"]
    lines = _message(values).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["sed", "seed", "epochs"]


@pytest.mark.parametrize("key", sorted(COMMITTED))
def test_no_key_may_be_left_out(key: str) -> None:
    values = {name: value for name, value in COMMITTED.items() if name != key}
    assert f"{key}: missing" in _message(values)


_LEAVES = [
    *(key for key, value in COMMITTED.items() if not isinstance(value, dict)),
    *(f"{k}.{leaf}" for k, value in COMMITTED.items() if isinstance(value, dict) for leaf in value),
]
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(path=st.sampled_from(_LEAVES), value=_ANYTHING)
def test_any_value_is_taken_as_it_is_or_refused_by_the_name_of_its_key(
    path: str, value: object
) -> None:
    values = _changed(path, value)
    message = ""
    try:
        kept: Any = check_params(values).model_dump()
    except StageError as error:
        message = str(error)
    if message:
        assert all(line.startswith(f"params.yaml: {path}") for line in message.splitlines())
    else:
        for key in path.split("."):
            kept = kept[key]
        assert kept == value


def test_a_network_of_ones_own_needs_its_file_and_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("unet", "conv_deconv", "segnet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "network.py").touch()
    monkeypatch.setattr("stages.params.NETWORKS_FOLDER", tmp_path)
    values = _changed("networks", ["segnet"])
    assert "segnet: missing" in _message(values)
    assert "segnet.depth: unknown key" in _message(
        values | {"segnet": {"learning_rate": 0.1, "depth": 3}}
    )
    params = check_params(values | {"segnet": {"learning_rate": 0.1}})
    assert params.network("segnet").learning_rate == 0.1
    assert sorted(params.groups()) == ["conv_deconv", "segnet", "unet"]


COMMITTED_TEXT = (ROOT / "params.yaml").read_text()
EPOCHS_LINE = 1 + COMMITTED_TEXT[: COMMITTED_TEXT.index("\nepochs:") + 1].count("\n")


def _written(value: str) -> str:
    """The committed file with another text as the value of `epochs`."""
    return re.sub(r"(?m)^epochs: .*$", f"epochs: {value}", COMMITTED_TEXT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_written("5\nepochs: 6"), f"'epochs' is in lines {EPOCHS_LINE} and {EPOCHS_LINE + 1}"),
        (_written("{a: 1, a: 2}"), f"'a' is in lines {EPOCHS_LINE} and {EPOCHS_LINE}"),
        (_written("2000-13-01"), "month must be in 1..12"),
        (_written("9" * 5000), "5000 digits"),
        (_written("9" * 30), "epochs: 999999999999999999999999999999 is not allowed"),
        (_written("!!int x"), "invalid literal"),
        (_written("!!timestamp 5"), "not valid YAML"),
        (_written("!!binary \xe9"), "not valid YAML"),
        (_written("!!python/object/apply:os.mkdir [run]"), "could not determine a constructor"),
        (_written("&a [*a]"), "epochs: [[["),
        (_written("[" * 3000), "nested too deep"),
        (_written("7\n---\na: 1"), "a single document"),
        (_written("'7"), "not valid YAML"),
        (_written("7\0"), "not valid YAML"),
        (COMMITTED_TEXT + '"a\\nb": 1\n', r"'a\nb': unknown key"),
        (COMMITTED_TEXT + "? [a]\n: 1\n", "unhashable"),
        (COMMITTED_TEXT + "1: 1\n", "1: unknown key"),
    ],
)
def test_what_yaml_makes_of_a_file_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match=re.escape(reason)) as error:
        load_params(path)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


def test_a_value_of_many_aliases_is_told_in_short(tmp_path: Path) -> None:
    """Written out, this one would have 9 to the power of 20 parts."""
    path = tmp_path / "params.yaml"
    lists = "".join(f"k{n + 1}: &k{n + 1} [{', '.join([f'*k{n}'] * 9)}]\n" for n in range(20))
    path.write_text(f"k0: &k0 [x]\n{lists}{_written('*k20')}")
    with pytest.raises(StageError, match=r"epochs: \[\[") as error:
        load_params(path)
    assert max(map(len, str(error.value).splitlines())) < 1000


def test_defaults_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED_TEXT.replace("conv_deconv:\n", "conv_deconv:\n  <<: {}\n"))
    assert load_params(path) == load_params(ROOT / "params.yaml")


@settings(deadline=None, max_examples=150, derandomize=True)
@given(content=st.binary(max_size=60), place=st.integers(0, len(COMMITTED_TEXT)))
def test_any_bytes_in_the_file_are_read_or_refused(content: bytes, place: int) -> None:
    text = COMMITTED_TEXT.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_bytes(text[:place] + content + text[place:])
        with contextlib.suppress(StageError):
            load_params(path)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    group=st.sampled_from(["", *(key for key, value in COMMITTED.items() if type(value) is dict)]),
    key=st.text(max_size=80) | st.integers() | st.none() | st.booleans(),
    value=_ANYTHING,
)
def test_any_unknown_key_is_named_in_one_line(group: str, key: object, value: object) -> None:
    values = yaml.safe_load(COMMITTED_TEXT)
    place = values[group] if group else values
    hypothesis.assume(key not in place)
    place[key] = value
    message = _message(values)
    assert "\n" not in message
    assert message.isprintable()
    assert message.startswith("params.yaml: ")


@pytest.mark.parametrize("text", ["epochs: [", "- 1\n- 2\n", "", "\xff\xfe"])
def test_a_file_that_is_no_mapping_is_one_clear_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StageError, match=r"params\.yaml") as error:
        load_params(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../unet", "seed", "", "a\nb", "unet/", "model_dump", "x" * 300])
def test_a_name_that_is_no_network_is_refused(name: str) -> None:
    """Names of the command line become parts of paths and of modules."""
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(StageError, match=r"there are conv_deconv, unet$") as error:
        check_network(name, params)
    assert "\n" not in str(error.value)
    check_network("unet", params)


def test_a_stage_stops_with_the_message_and_without_a_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("epochs: ", "epochs: -")
    )
    result = subprocess.run(
        [sys.executable, "-m", "stages.params"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("params: params.yaml: epochs: -")
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
