"""Names, types and shapes of batch columns: the only thing that ``data`` and ``objectives`` share.

Legend: B rows of a micro batch, H W image, T tokens, K most concepts of a caption.
An objective declares the content columns it needs; the stream produces those, the provenance and the stamp.
"""

# Content.
IMAGE = "image"  # uint8 [B, H, W, 3], RGB
TOKENS = "tokens"  # int32 [B, T], padded behind the end token
CONCEPTS = "concepts"  # int32 [B, K], indices into the vocabulary, -1 behind the last
CAPTION = "caption"  # str, evaluation only

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
SKIP_REASONS = (
    "none",
    "image_missing",
    "image_undecodable",
    "image_too_large",
    "caption_missing",
    "caption_undecodable",
)

# Stamp of a block: for whom the plan made it.
STEP = "step"
RANK = "rank"
MICRO_BATCH = "micro_batch"
STAMP = (STEP, RANK, MICRO_BATCH)
