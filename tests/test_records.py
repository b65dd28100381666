from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import StageError
from stages.manifest import Manifest, read_manifest
from stages.records import Example, ShardWriter, batches, load_split, parse, serialize


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


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit"])
def test_a_damaged_shard_is_named_before_anything_is_read(
    records: Path, manifest: Manifest, tmp_path: Path, damage: str
) -> None:
    for path in records.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / manifest.splits["test"].shards[1].file
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    else:
        content[1000] ^= 1
        shard.write_bytes(content)
    with pytest.raises(StageError, match=rf"{shard.name}.*dvc repro -f prepare"):
        batches(tmp_path, manifest, "test", 4)


def test_a_missing_manifest_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dvc repro -f prepare"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StageError, match="dvc repro -f prepare"):
        read_manifest(tmp_path)
