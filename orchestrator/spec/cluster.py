"""Where to run: the sections of a ``cluster.yaml``. Nothing here says what is run."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.errors import JobFileError
from orchestrator.spec.cluster_kuberay import KubeRaySpec
from orchestrator.spec.cluster_slurm import SlurmSpec
from orchestrator.spec.cluster_submit import SubmitSpec
from orchestrator.spec.devices import DeviceKind
from orchestrator.spec.section import Section


class S3Spec(Section):
    """An S3-compatible endpoint. Credentials come from the environment or the instance, never from a file here."""

    endpoint: str | None = None
    """URL of the endpoint, without credentials; none: AWS."""
    region: str = "us-east-1"
    """Region of the bucket; most endpoints other than AWS take any."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """How long one request may take before it is tried again."""
    max_attempts: int = Field(default=10, ge=1)
    """Tries of one request, the first included, before reading or writing fails."""

    @field_validator("endpoint")
    @classmethod
    def _without_credentials(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and "@" in endpoint:
            # No ValueError: what reports those shows the value as it was given.
            raise JobFileError(
                f"storage.s3.endpoint (***@{endpoint.rpartition('@')[2]}) carries credentials, which would reach "
                f"plan.json and every worker; remove them from the URL and set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY in the environment"
            )
        return endpoint


class CacheSpec(Section):
    """Ranges of shards kept on each node's own disk, for runs of several epochs."""

    folder: str
    """A folder on a local disk of every node that reads."""
    max_bytes: int = Field(ge=2**20)
    """What it may hold; what was used longest ago goes first."""


class StorageSpec(Section):
    """Where data sets and runs live."""

    data: str
    """Root of relative data paths in job files: a folder or ``s3://bucket/prefix``."""
    runs: str
    """Root of run folders (checkpoints, plans): a folder or ``s3://bucket/prefix``."""
    s3: S3Spec = S3Spec()
    cache: CacheSpec | None = None
    """Local copies of what is read from the data's bucket, tars and Parquet; none: every epoch reads it again."""


class RaySpec(Section):
    """How to reach Ray."""

    address: str | None = None
    """Address of a cluster that runs already; none: Ray is started here and stopped afterwards."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of all nodes together; none: twice the cores here (readers wait on storage half of their time)."""
    ingest_labels: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes that read and decode, for few devices; none: the node of each worker reads for it."""
    object_store_bytes: int = Field(default=2 * 2**30, ge=80 * 2**20)
    """Shared memory for blocks on their way to workers, of all nodes together; a Ray started here gets it."""
    patience_s: float = Field(default=600.0, gt=0)
    """How long an attempt waits for room for all workers: nodes that an autoscaler brings, or in place of lost ones."""


class WorkersSpec(Section):
    """The training workers that this place offers."""

    count: int = Field(ge=1)
    """One worker per device."""
    per_node: int | None = Field(default=None, ge=1)
    """How many a node of a Ray that runs already holds; none: one holds all. Nodes under ``launch`` say it there."""
    accelerator: Literal["cpu", "cuda"]
    """What a worker computes on; it also decides the collectives (gloo, NCCL)."""
    cpus: int = Field(default=1, ge=1)
    """Logical CPUs that one worker holds; readers share the rest."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads of a worker; none: the physical cores over the workers of the machine."""


class TrackingSpec(Section):
    """Where runs are recorded."""

    uri: str | None = None
    """An MLflow server's URL, or ``sqlite:///FILE``; none: ``mlflow.db`` in the runs folder (local only)."""
    metrics_address: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")] | None = None
    """``HOST:PORT`` where the driver shows the run's last values to Prometheus; none: nowhere."""

    @field_validator("uri")
    @classmethod
    def _says_where_and_nothing_else(cls, uri: str | None) -> str | None:
        if uri is None or uri.startswith("sqlite:///"):
            return uri
        if "@" in uri or "?" in uri:
            # No ValueError: what reports those shows the value as it was given.
            raise JobFileError(
                "tracking.uri (not shown) carries credentials or a query, which would reach logs and records; remove "
                "them from the cluster file and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
                "MLFLOW_TRACKING_TOKEN) in the environment"
            )
        if not uri.startswith(("http://", "https://")):
            raise ValueError("wanted http://HOST:PORT or https://HOST of a tracking server, or sqlite:////FILE")
        return uri

    @field_validator("metrics_address")
    @classmethod
    def _a_port(cls, address: str | None) -> str | None:
        if address is not None and not 1 <= int(address.rpartition(":")[2]) <= 65_535:
            raise ValueError("wanted a port from 1 to 65535")
        return address


class CapacitySpec(Section):
    """What ``plan`` counts with before anything is booked; nothing here changes a run."""

    device: DeviceKind | None = None
    """Kind of each worker's device; none: its rate, and so time and cost, are not estimated."""
    utilisation: float = Field(default=0.4, gt=0, le=1)
    """Share of the device's peak that a step is assumed to reach; ``benchmarks/step.py`` measures it."""
    decode_images_per_s_per_core: float | None = Field(default=None, gt=0)
    """What a physical core reads, decodes and crops; none: as measured for JPEGs of 500x375 (spec/capacity.py)."""
    upload_mb_per_s: float | None = Field(default=None, gt=0)
    """10^6 bytes a second from all workers together to ``storage.runs``; none: upload times are not estimated."""
    price_per_device_hour: float | None = Field(default=None, ge=0)
    """Of one device with its share of the node; none: the cost is not estimated."""
    currency: str = "USD"
    """Of the price."""


LaunchSpec = Annotated[KubeRaySpec | SlurmSpec, Field(discriminator="kind")]


class ClusterSpec(Section):
    """One place where jobs run."""

    name: str
    """What messages call this place."""
    ray: RaySpec = RaySpec()
    workers: WorkersSpec
    storage: StorageSpec
    tracking: TrackingSpec = TrackingSpec()
    capacity: CapacitySpec = CapacitySpec()
    launch: LaunchSpec | None = None
    """Who makes the Ray cluster for a job (``orchestrator render``); none: Ray starts here, or runs already."""
    submit: SubmitSpec | None = None
    """How jobs are handed to a Ray that runs already (``orchestrator submit``); none: they start where Ray is."""

    @model_validator(mode="after")
    def _sizes_once(self) -> "ClusterSpec":
        for key in ("num_cpus", "object_store_bytes"):
            if self.launch is not None and key in self.ray.model_fields_set:
                raise ValueError(f"ray.{key} is given beside launch, whose nodes say it; leave it out")
        return self
