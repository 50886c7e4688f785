"""What ``resolve_plan`` must know besides the job and the cluster; read by ``runs``, never by the plan itself."""

from pydantic import Field

from orchestrator.spec.annotation import AnnotationFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec
from orchestrator.spec.objective import ConceptMode
from orchestrator.spec.section import Section


class ShardsFacts(Section):
    """What the index of a folder of shards says."""

    uri: str
    digest: str
    """Of the shards' paths, sizes and sample counts; the same on disk and in a bucket."""
    layout: str | None = None
    """Digest of where their chunks begin, which shards that were written again rarely share; none: not known yet."""
    num_shards: int
    num_samples: int
    bytes: int
    num_counted: int = 0
    """Shards of which only the number of samples is known; a run reads where their chunks begin first."""
    selection: str | None = None
    """Digest of what the job's selection keeps of them."""
    num_kept: int | None = None
    """Samples that the selection keeps."""
    filtered: dict[str, int] = Field(default_factory=dict)
    """Samples that it leaves out, by reason."""

    annotations: dict[str, AnnotationFacts] = Field(default_factory=dict)
    """Those of the job's objective that lie beside them, by the objective's word for each."""

    @property
    def num_usable(self) -> int:
        """Samples that a job trains on in an epoch."""
        return self.num_samples if self.num_kept is None else self.num_kept


class TokenizerFacts(Section):
    """A tokenizer that is ready to be loaded."""

    uri: str
    """A folder or hub name; a trained one lies beside the shards it was trained on."""
    digest: str
    vocabulary_size: int
    begin_id: int | None
    """None: captions begin with their first token."""
    end_id: int
    pad_id: int


class FinderFacts(Section):
    """What finds the concepts of a caption."""

    mode: ConceptMode
    noun_table: str | None
    """URI; none: the packaged one."""
    tagger: str | None
    """URI; none: the mode needs none."""


class VocabularyFacts(Section):
    """A concept vocabulary that is ready to be loaded."""

    uri: str
    digest: str
    size: int
    finder: FinderFacts


class MachineFacts(Section):
    """What executes the plan."""

    num_cores: int = Field(ge=1)
    """Physical cores."""
    num_cpus: int = Field(ge=1)
    """Logical CPUs that Ray hands out."""
    decoder: str
    """Name and version of the image decoder: another one may give other pixels."""


class Facts(Section):
    """All of the above, as far as it is known; what is missing is made when the job runs."""

    machine: MachineFacts
    train: tuple[ShardsFacts, ...] = ()
    """Of each source; none while one of them has no index or no selection yet."""
    heldout: ShardsFacts | None = None
    tokenizer: TokenizerFacts | None = None
    vocabulary: VocabularyFacts | None = None


def stand_in_facts(job: PretrainSpec) -> tuple[ShardsFacts, ...]:
    """Sources of one global batch each, the largest, to resolve all that does not depend on the number of samples."""
    sources = job.data.sources if isinstance(job.data, ShardsSpec) else ()
    size = max(size for _, size in job.global_sizes())
    return tuple(ShardsFacts(uri=source.uri, digest="", num_shards=1, num_samples=size, bytes=0) for source in sources)
