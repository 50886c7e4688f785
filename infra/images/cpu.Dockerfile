# Workers without devices: data nodes, tests, small jobs. Build from the root of the repository:
#   docker build -f infra/images/cpu.Dockerfile -t vl-orchestrator:0.1.0-cpu .
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Dependencies first: they change less often than the package.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator/__init__.py orchestrator/__init__.py
COPY orchestrator/wordnet/LICENSE.wordnet orchestrator/wordnet/LICENSE.wordnet
RUN pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu '.[cluster]'
COPY orchestrator orchestrator
RUN pip install --constraint constraints.txt --no-deps --force-reinstall . \
    && python -m compileall -q /opt/venv/lib

FROM python:${PYTHON}
# KubeRay's probes and entry points ask for wget and bash; Ray for procps.
RUN apt-get update && apt-get install --yes --no-install-recommends procps wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home ray
COPY --from=build /opt/venv /opt/venv
COPY jobs /opt/jobs
ENV PATH=/opt/venv/bin:$PATH \
    DS_ACCELERATOR=cpu \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/ray
# The noun table is in the package; an image without it would fail an hour into a CatLIP job.
RUN orchestrator --help > /dev/null && python -c "from orchestrator.wordnet.table import load_noun_table; load_noun_table()"
# Healthy: the Ray node in this container answers, or none was started in it.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
    CMD ["bash", "-c", "! pgrep --exact raylet > /dev/null || ray health-check"]
CMD ["orchestrator", "--help"]
