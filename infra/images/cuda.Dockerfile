# Training workers. Build from the root of the repository:
#   docker build -f infra/images/cuda.Dockerfile -t vl-orchestrator:0.1.0-cuda .
# EFA wants libfabric and aws-ofi-nccl in the last stage too: AWS has them as packages.
ARG PYTHON=3.11.14

FROM python:${PYTHON}-bookworm AS build
# The compiler of the CUDA release that torch's wheel is built with; the libraries come with the wheel.
ARG CUDA=13.0
RUN wget --quiet https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb \
    && dpkg --install cuda-keyring_1.1-1_all.deb && apt-get update \
    && apt-get install --yes --no-install-recommends "cuda-toolkit-$(echo ${CUDA} | tr . -)" ninja-build \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV CUDA_HOME=/usr/local/cuda PATH=/opt/venv/bin:/usr/local/cuda/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator/__init__.py orchestrator/__init__.py
COPY orchestrator/wordnet/LICENSE.wordnet orchestrator/wordnet/LICENSE.wordnet
RUN pip install --constraint constraints.txt '.[cluster]' \
    && python -c "import torch; assert torch.version.cuda == '${CUDA}', torch.version.cuda"
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

FROM python:${PYTHON}-slim-bookworm
# g++ for what torch.compile makes at run time; wget and procps for KubeRay and Ray.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ procps wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home ray
COPY --from=build /opt/venv /opt/venv
COPY jobs /opt/jobs
ENV PATH=/opt/venv/bin:$PATH \
    DS_ACCELERATOR=cuda \
    MLFLOW_DISABLE_TELEMETRY=true \
    NCCL_DEBUG=WARN \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/ray
RUN orchestrator --help > /dev/null && python -c "from orchestrator.wordnet.table import load_noun_table; load_noun_table()"
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
    CMD ["bash", "-c", "! pgrep --exact raylet > /dev/null || ray health-check"]
CMD ["orchestrator", "--help"]
