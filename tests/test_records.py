import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    Manifest,
    file_sha256,
    read_arrays,
    read_manifest,
)
from stages.records.tfrecords import Example, ShardWriter, batches, load_split, parse, serialize
from stages.stage import StageError


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    size=st.sampled_from([1, 32, 64]),
    name=st.text(max_size=20),
    label=st.integers(-1, 36),
    species=st.integers(-1, 1),
    seed=st.integers(0, 1000),
)
def test_what_is_serialised_is_parsed(
    size: int, name: str, label: int, species: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    example = Example(
        rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        rng.integers(0, 3, (size, size), dtype=np.uint8),
        name,
        label,
        species,
    )
    parsed = {key: value[0].numpy() for key, value in parse([serialize(example)], size).items()}
    np.testing.assert_array_equal(parsed["image"], example.image)
    np.testing.assert_array_equal(parsed["mask"], example.mask)
    assert parsed["file_name"].decode() == name
    assert (parsed["label"], parsed["species"]) == (label, species)


@pytest.mark.parametrize(("examples", "files"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_shards_have_their_size_and_their_names(tmp_path: Path, examples: int, files: int) -> None:
    writer = ShardWriter(tmp_path, "train", 4)
    for number in range(examples):
        mask = np.full((2, 2), number % 3, np.uint8)
        writer.write(Example(np.zeros((2, 2, 3), np.uint8), mask, str(number), -1, -1))
    shards = writer.close()
    assert [shard.file for shard in shards] == [
        f"train-{index:05d}-of-{files:05d}.tfrecord" for index in range(files)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [shard.file for shard in shards]
    assert sum(shard.examples for shard in shards) == examples
    names = [
        parse([record], 2)["file_name"][0].numpy().decode()
        for record in tf.data.TFRecordDataset([str(tmp_path / s.file) for s in shards])
    ]
    assert names == [str(number) for number in range(examples)]


def test_batches_hold_every_example_once_in_order(records: Path, manifest: Manifest) -> None:
    sizes = [len(batch["image"]) for batch in batches(records, manifest, "test", 4)]
    assert sizes == [4, 2]
    images, masks = load_split(records, manifest, "test")
    joined = np.concatenate([batch["image"] for batch in batches(records, manifest, "test", 4)])
    np.testing.assert_array_equal(images, joined)
    assert masks.shape == (6, 128, 128)
    assert masks.max() == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "foreign"])
def test_a_damaged_shard_is_named_before_anything_is_read(
    records: Path, manifest: Manifest, tmp_path: Path, damage: str
) -> None:
    _damaged_copy(records, tmp_path, manifest.splits["test"].shards[1].file, damage)
    name = manifest.splits["test"].shards[1].file
    with pytest.raises(StageError, match=rf"{name}.*dvc repro -f prepare"):
        batches(tmp_path, manifest, "test", 4)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "foreign"])
@pytest.mark.parametrize("file", [BASELINE_FILE, EXAMPLES_FILE])
def test_a_damaged_file_beside_the_shards_is_named(
    records: Path, manifest: Manifest, tmp_path: Path, file: str, damage: str
) -> None:
    _damaged_copy(records, tmp_path, file, damage)
    with pytest.raises(StageError, match=rf"{file}.*dvc repro -f prepare"):
        read_arrays(tmp_path, manifest, file)


def _damaged_copy(records: Path, folder: Path, name: str, damage: str) -> None:
    for path in records.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / name).read_bytes())
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "truncated":
        (folder / name).write_bytes(content[: len(content) // 2])
    elif damage == "foreign":  # whole, but another one
        other = "train-00000-of-00003.tfrecord" if name.endswith(".tfrecord") else BASELINE_FILE
        (folder / name).write_bytes((records / other).read_bytes())
        if name == BASELINE_FILE:
            np.save(folder / name, np.zeros((128, 128), np.uint8))
    else:
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)


def test_arrays_that_hold_objects_are_not_read(
    records: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """Even with the right checksum: reading objects would run what their pickle says."""
    np.save(tmp_path / BASELINE_FILE, np.array([{}], object), allow_pickle=True)
    checksums = {BASELINE_FILE: file_sha256(tmp_path / BASELINE_FILE)}
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(tmp_path, manifest.model_copy(update={"other_files": checksums}), BASELINE_FILE)


@pytest.mark.parametrize("name", ["../a.tfrecord", "/etc/passwd", "a/b", "", ".hidden", "a\nb"])
def test_a_manifest_whose_files_lie_elsewhere_is_refused(
    manifest: Manifest, tmp_path: Path, name: str
) -> None:
    content = manifest.model_dump()
    content["splits"]["train"]["shards"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StageError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_missing_manifest_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dvc repro -f prepare"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StageError, match="dvc repro -f prepare"):
        read_manifest(tmp_path)
