"""Writes a prepared data set record by record, in bounded memory.

tensorflow-datasets' own writers keep records in memory to sort them, and need TensorFlow from 1,000 MiB on.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from iqa_jax.errors import UserError

SHARD_BYTES = 256 * 2**20  # after which a shard is full
_SPARE = 64 * 2**20  # of the disk: tables, and what else is written meanwhile
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"


def write_split(
    builder: tfds.core.DatasetBuilder,
    split: str,
    records: Iterable[Mapping],
) -> tfds.core.SplitInfo:
    """Writes records (`builder.info.features`), in their order, as array_record files.

    Args:
      builder: its `data_path` gets the files.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path,
        template=_TEMPLATE,
        dataset_name=builder.name,
        split=split,
        filetype_suffix="array_record",
    )
    features: Any = builder.info.features
    writer = None
    lengths: list[int] = []
    total = in_shard = 0
    try:
        for record in records:
            serialized = features.serialize_example(features.encode_example(record))
            if writer is None or in_shard >= SHARD_BYTES:
                if writer is not None:
                    writer.close()
                path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
                # One record a group, for random access; no pile of groups that wait to be compressed.
                writer = ArrayRecordWriter(str(path), "group_size:1,max_parallelism:2")
                lengths.append(0)
                in_shard = 0
            writer.write(serialized)
            lengths[-1] += 1
            in_shard += len(serialized)
            total += len(serialized)
    finally:
        if writer is not None:
            writer.close()
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=total, filename_template=template)


def check_room(place: Path, needed: int, what: str) -> None:
    """Raises UserError unless `needed` bytes, and some to spare, are free on the disk of `place`."""
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise UserError(
            f"{place}: {what} needs {(needed + _SPARE) / 2**20:,.0f} MiB there, {free / 2**20:,.0f} are "
            "free; free some space, or set data_dir to a folder on another disk"
        )
