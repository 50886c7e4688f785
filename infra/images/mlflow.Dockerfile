# The tracking server with its users and PostgreSQL's driver. Build from the root of the repository:
#   docker build -f infra/images/mlflow.Dockerfile -t vl-orchestrator-mlflow:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /src/
RUN pip install --constraint /src/constraints.txt 'mlflow[auth]' psycopg2-binary boto3

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 1000 --create-home mlflow
COPY --from=build /opt/venv /opt/venv
COPY infra/images/serve-mlflow.sh /usr/local/bin/serve-mlflow
ENV PATH=/opt/venv/bin:$PATH MLFLOW_DISABLE_TELEMETRY=true
USER 1000:1000
WORKDIR /home/mlflow
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=5)"]
CMD ["bash", "/usr/local/bin/serve-mlflow"]
