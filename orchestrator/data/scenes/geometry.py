"""The scenes' ground truth as an annotation: depth, normals and masks of every image, at the image's own resolution."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from orchestrator.data.annotation_header import INDEX, KEY, Annotation, AnnotationColumn, Maker, ShardVersion
from orchestrator.data.annotations import annotation_path, encode_annotation
from orchestrator.data.dense import encode_dense
from orchestrator.data.metadata import key_array
from orchestrator.data.scenes.render import GroundTruth

GEOMETRY = "geometry"
"""Name of the annotation."""
_COLUMNS = (
    AnnotationColumn("depth", "depth", scale=0.001),  # millimetres: the ground ends at 60 m
    AnnotationColumn("normals", "normals"),
    AnnotationColumn("mask", "mask"),
)
_VERSION = "1"


def geometry_annotation(seed: int, image_size: int) -> Annotation:
    """The annotation of scenes that were drawn and rendered with these."""
    settings = f"seed {seed}, {image_size} pixels"
    command = f"orchestrator data scenes DEST --seed {seed} --image-size {image_size}"
    return Annotation(GEOMETRY, _COLUMNS, Maker("scenes", _VERSION, settings, command))


def encode_geometry(truth: GroundTruth) -> dict[str, bytes]:
    """The columns of one sample."""
    values: dict[str, npt.NDArray[Any]] = {"depth": truth.depth, "normals": truth.normal, "mask": truth.mask}
    return {column.name: encode_dense(values[column.name], column) for column in _COLUMNS}


def write_geometry(shard: Path, annotation: Annotation, keys: Sequence[str], rows: Sequence[dict[str, bytes]]) -> None:
    """The annotation of a whole shard, beside it; names it by its SHA-256, since the folder is on its way elsewhere."""
    with open(shard, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    version = ShardVersion(shard.name, shard.stat().st_size, len(keys), uri="", etag="", sha256=sha256)
    arrays = {column.name: pa.array([row[column.name] for row in rows], pa.binary()) for column in _COLUMNS}
    table = pa.table({INDEX: pa.array(range(len(keys)), pa.int32()), KEY: key_array(keys)} | arrays)
    path = shard.parent / annotation_path(annotation.name, shard.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_annotation(version, annotation, table))
