"""What can be wrong with a data set: the reasons, by stable names, and one finding."""

from dataclasses import dataclass

REASONS = {
    # The shard as a file.
    "shard_unreadable": "reading failed after its retries, or is not allowed",
    "shard_changed": "the shard was written again or deleted while it was read",
    "shard_empty": "the file has no bytes",
    "truncated_header": "the tar breaks off inside a header",
    "truncated_data": "the tar breaks off inside a member's data",
    "truncated_end": "the tar breaks off between two members: it has no end-of-archive marker",
    "header_damaged": "a tar header that does not parse, or whose checksum does not hold",
    "member_too_large": "a tar header asks for more than a member may have (256 MiB)",
    "trailing_data": "data behind the end of the archive, which nobody reads",
    "parquet_damaged": "no whole Parquet file, or a row group that does not read",
    "row_group_large": "a row group that is read whole for a small part of it",
    "column_unusable": "a column of images or captions that holds lists, structs or times, or is there twice",
    "no_samples": "no sample in the shard",
    "shard_damaged": "a sampled chunk does not read, or damage that indexing had found",
    # The shard against its index and img2dataset's NNNNN_stats.json.
    "index_damaged": "the index beside the shards does not read",
    "shard_missing": "the index has the shard, the folder has not",
    "shard_unindexed": "the folder has the shard, its index has not",
    "size_mismatch": "not the bytes that the index says",
    "etag_mismatch": "written again since it was indexed",
    "checksum_mismatch": "not the SHA-256 that the index says",
    "count_mismatch": "not the number of samples that the index says",
    "stats_mismatch": "not the number of images that `successes` in _stats.json says",
    "stats_damaged": "a _stats.json that does not read or is no JSON object, or whose `successes` is no number",
    # Members and keys.
    "member_refused": "a link, a device or the like instead of a plain file, or a name that is absolute or has `..`",
    "member_missing": "a sample lacks a member that most samples of its shard have",
    "member_duplicate": "a sample has a member twice",
    "key_noncontiguous": "a key comes again behind other samples: members of a sample must lie side by side",
    # Images and captions.
    "image_missing": "no image",
    "image_undecodable": "an image that does not decode",
    "image_too_large": "an image of more pixels than allowed, or of more than 32 scans (a decompression bomb)",
    "caption_missing": "no caption",
    "caption_empty": "a caption of nothing but white space",
    "caption_undecodable": "a caption that is not UTF-8",
    "caption_broken": "a caption with control characters, or with U+FFFD that an earlier decoding left",
    "sample_duplicate": "the same image bytes and captions as an earlier sample",
}
"""Name to meaning. A name that is also in ``columns.SKIP_REASONS`` means the same there."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    shard: str
    """Path within the data set."""
    reason: str
    """One of ``REASONS``."""
    key: str | None
    """Of the sample; None where the whole shard is meant. For Parquet, the row."""
    detail: str
