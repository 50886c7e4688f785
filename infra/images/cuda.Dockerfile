# Training workers. Build from the root of the repository:
#   docker build -f infra/images/cuda.Dockerfile -t vl-orchestrator:0.1.0-cuda .
# EFA: base the last stage on an image with aws-ofi-nccl and libfabric (the Deep Learning Containers have both).
ARG CUDA=13.0.2
ARG DEBIAN=ubuntu22.04

FROM nvidia/cuda:${CUDA}-cudnn-devel-${DEBIAN} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ ninja-build python3.11 python3.11-dev \
    python3.11-venv && rm -rf /var/lib/apt/lists/*
RUN python3.11 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator/__init__.py orchestrator/__init__.py
COPY orchestrator/wordnet/LICENSE.wordnet orchestrator/wordnet/LICENSE.wordnet
RUN pip install --constraint constraints.txt '.[cluster]'
# DeepSpeed again with its operators compiled here: on a node it would ask for a compiler, and take minutes each start.
# Operators of the optimizers and of the transport that this project uses; 8.0 A100, 9.0 H100, 10.0 B200.
ARG CUDA_ARCHITECTURES="8.0;9.0;10.0"
ENV TORCH_CUDA_ARCH_LIST=${CUDA_ARCHITECTURES} DS_BUILD_FUSED_ADAM=1 DS_BUILD_CPU_ADAM=1 DS_BUILD_UTILS=1
RUN pip install --constraint constraints.txt setuptools wheel \
    && pip install --constraint constraints.txt --no-build-isolation --no-deps --force-reinstall \
        --no-binary deepspeed deepspeed
COPY orchestrator orchestrator
RUN pip install --constraint constraints.txt --no-deps --force-reinstall . \
    && python -m compileall -q /opt/venv/lib

FROM nvidia/cuda:${CUDA}-base-${DEBIAN}
# g++ for what torch.compile makes at run time; wget and procps for KubeRay and Ray.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ procps python3.11 python3.11-dev wget \
    && rm -rf /var/lib/apt/lists/* && useradd --uid 1000 --create-home ray
COPY --from=build /opt/venv /opt/venv
COPY jobs /opt/jobs
ENV PATH=/opt/venv/bin:$PATH \
    DS_ACCELERATOR=cuda \
    MLFLOW_DISABLE_TELEMETRY=true \
    NCCL_DEBUG=WARN \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/ray
RUN orchestrator --help > /dev/null && python -c "from orchestrator.wordnet.table import load_noun_table; load_noun_table()"
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
    CMD ["bash", "-c", "! pgrep --exact raylet > /dev/null || ray health-check"]
CMD ["orchestrator", "--help"]
