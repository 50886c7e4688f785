"""A shard as the index describes it, and its division into chunks."""

from dataclasses import dataclass

CHUNK_SAMPLES = 64  # of a chunk: what one ranged read brings


@dataclass(frozen=True)
class ShardRow:
    """One shard of a data set; a row of the index."""

    path: str
    size_bytes: int
    etag: str
    """As the shard's own store gives it; empty where none is known. A read of another version is refused."""
    num_samples: int
    boundaries: tuple[int, ...]
    """The chunk table. Tar: byte offset of each chunk's first header, and the end of the last chunk. Parquet: first
    row of each row group, and the number of rows. Empty while nobody read the shard."""
    problems: tuple[str, ...] = ()
    """What is wrong with the shard, in words; the samples counted above are whole all the same."""
    sha256: str = ""
    """Hexadecimal, of the content; empty until the whole shard was read (``data verify --fix-index``)."""

    @property
    def has_chunk_table(self) -> bool:
        """Whether chunks can be read; else their number alone is known."""
        return bool(self.boundaries) or not self.num_samples

    @property
    def num_chunks(self) -> int:
        """Chunks of the shard; the last may be short."""
        return -(-self.num_samples // CHUNK_SAMPLES)

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """Index of a chunk's first sample, and the one behind its last."""
        start = chunk * CHUNK_SAMPLES
        return start, min(start + CHUNK_SAMPLES, self.num_samples)
