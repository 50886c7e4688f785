"""Names, types and shapes of batch columns: the only thing that ``data`` and ``objectives`` share.

Legend: B rows of a micro batch, H W image, T tokens, K most concepts of an image, N width of an annotation's column.
An objective declares the content columns it needs; the stream produces those, the provenance and the stamp.
"""

from typing import Literal

# Content.
IMAGE = "image"  # uint8 [B, H, W, 3], RGB
TOKENS = "tokens"  # int32 [B, n T]: the image's n captions one after the other, each padded behind its end token
CONCEPTS = "concepts"  # int32 [B, K + 1], indices into the vocabulary, -1 behind the last; where more were named, the
#                        last number is -1 less as many as were left out
CAPTION = "caption"  # str, evaluation only
KEPT_PATCHES = "kept_patches"  # int64 [B, n], patches that go through the vision tower; made on the worker

# Content that was computed ahead of training and lies beside the shards (data/annotations.py). By kind of column:
AnnotationKind = Literal["number", "labels", "embedding", "depth", "normals", "mask"]
#   number     float32 [B]             NaN where a row lacks it
#   labels     int32 [B, N]            -1 behind the last
#   embedding  float32 [B, N]
#   depth      float16 [B, H, W]       in the maker's unit, 0 where there is none
#   normals    int8 [B, H, W, 3]       x right, y down, z away from the camera; 127 is one, 0 0 0 where there is none
#   mask       uint8 [B, H, W]         labels
# Whether a row has an annotation says its presence column, bool [B]; what a row lacks is NaN, -1 or zero.
DENSE_KINDS = ("depth", "normals", "mask")
_PRESENT = "present"


def annotation_column(annotation: str, column: str) -> str:
    """Name of an annotation's column in a batch."""
    return f"{annotation}.{column}"


def presence_column(annotation: str) -> str:
    """Name of the column that says which rows have the annotation."""
    return f"{annotation}.{_PRESENT}"


def is_presence(name: str) -> bool:
    """Whether a column of a batch says which rows have an annotation."""
    return name.endswith(f".{_PRESENT}")


# Provenance: where a row came from (int32 each). ``EPOCH`` counts passes over its data set.
DATASET = "dataset"
EPOCH = "epoch"
SHARD = "shard"
INDEX = "index"
PROVENANCE = (DATASET, EPOCH, SHARD, INDEX)

# A bad sample's slot holds a substitute: what the plan had named there, and why it was skipped.
SKIPPED_DATASET = "skipped_dataset"  # int32 each, -1 where nothing was skipped
SKIPPED_EPOCH = "skipped_epoch"
SKIPPED_SHARD = "skipped_shard"
SKIPPED_INDEX = "skipped_index"
SKIPPED = (SKIPPED_DATASET, SKIPPED_EPOCH, SKIPPED_SHARD, SKIPPED_INDEX)
SKIP_REASON = "skip_reason"  # int32, index into SKIP_REASONS
NO_CONCEPT = "no_concept"
SKIP_REASONS = (
    "none",
    "image_missing",
    "image_undecodable",
    "image_too_large",
    "caption_missing",
    "caption_undecodable",
    "annotation_missing",
    "annotation_undecodable",
    NO_CONCEPT,
    "member_refused",
    "caption_broken",
)

# Stamp of a block: for whom the plan made it.
STEP = "step"
RANK = "rank"
MICRO_BATCH = "micro_batch"
STAMP = (STEP, RANK, MICRO_BATCH)
