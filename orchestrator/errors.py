"""Every error a user can meet, as a tree.

    OrchestratorError
    ├── UserError                 the input is wrong; exit code 2
    │   ├── JobFileError          a YAML file: syntax, unknown or duplicate key, wrong value
    │   ├── PlanError             the job and the cluster do not fit together
    │   ├── StorageAccessError    bucket missing, credentials refused, path not readable
    │   ├── DatasetError          no shards, no samples, an index that does not match its shards
    │   ├── AnnotationError       an annotation that is absent, of another kind, or made for other shards
    │   ├── ModelSourceError      weights or a tokenizer that do not load
    │   ├── CompilerMissingError  torch.compile on a machine without a compiler
    │   ├── ClusterAccessError    a Ray cluster that is away, refuses the token, or is of another version
    │   ├── TrackingAccessError   an MLflow server that refuses the credentials
    │   ├── RunConflictError      the run name belongs to another plan
    │   ├── RunHeldError          the run is live elsewhere
    │   └── RunNotFoundError      no such run or checkpoint
    └── WorkError                 the work failed; exit code 1
        ├── ShardReadError        input or output failed after its retries
        ├── ShardDamagedError     a shard is not what its index says
        ├── BadSampleLimitError   more samples were skipped than the job allows
        ├── StreamOrderError      a block arrived that the plan does not name here
        ├── DivergedError         a loss or gradient that is not finite, too often
        ├── MemoryExhaustedError  a device or host ran out of memory
        ├── CheckpointError       a checkpoint that is incomplete, damaged or unsafe to load
        ├── WorkerLostError       workers or nodes died more often than the job allows
        ├── EvaluationError       an evaluation set or probe that cannot be computed
        └── TrackingError         a record that could not be read back

Each error carries one message that says what is wrong with which value, what was expected and where to change
it. One string argument is all there is, so that every error pickles across a process boundary unchanged.
"""


class OrchestratorError(Exception):
    """Base of all named errors. ``exit_code`` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UserError(OrchestratorError):
    """The user's input is wrong, and the user can repair it."""

    exit_code = 2


class JobFileError(UserError):
    """A YAML file does not say what a job or cluster file can say."""


class PlanError(UserError):
    """Job and cluster are each valid, but cannot run together."""


class StorageAccessError(UserError):
    """A bucket, folder or credential that does not open."""


class DatasetError(UserError):
    """A data set without shards or samples, or an index that does not match."""


class AnnotationError(UserError):
    """An annotation that is absent, of another kind than asked for, or made for other shards."""


class ModelSourceError(UserError):
    """Weights or a tokenizer that do not load from where the job says."""


class CompilerMissingError(UserError):
    """The job asks for compiled layers, and a worker has no compiler."""


class ClusterAccessError(UserError):
    """A Ray cluster that does not answer, refuses the token, or runs other versions."""


class TrackingAccessError(UserError):
    """An MLflow server that refuses the credentials, or keeps the experiment among its deleted ones."""


class RunConflictError(UserError):
    """The run name belongs to another plan."""


class RunHeldError(UserError):
    """The run is live elsewhere."""


class RunNotFoundError(UserError):
    """No run or checkpoint of that name."""


class WorkError(OrchestratorError):
    """The input was accepted, the work failed."""


class ShardReadError(WorkError):
    """Reading a shard failed after its retries."""


class ShardDamagedError(WorkError):
    """A shard is not what its index says."""


class BadSampleLimitError(WorkError):
    """More samples were skipped than the job allows."""


class StreamOrderError(WorkError):
    """A worker received a block that the plan does not name for it."""


class DivergedError(WorkError):
    """The loss or the gradient was not finite too often."""


class MemoryExhaustedError(WorkError):
    """A device or the host ran out of memory."""


class CheckpointError(WorkError):
    """A checkpoint that is incomplete, damaged or unsafe to load."""


class WorkerLostError(WorkError):
    """Workers or nodes died more often than the job allows."""


class EvaluationError(WorkError):
    """An evaluation set or probe that cannot be computed."""


class TrackingError(WorkError):
    """A record that could not be written or read back."""


class Interrupted(OrchestratorError):  # noqa: N818  (not a fault: the user asked for it)
    """The user stopped the work; what was done is checkpointed. Exit code 130."""

    exit_code = 130
