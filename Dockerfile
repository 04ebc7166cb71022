# Two images from one file:
#   stream   workers, serving, commands: the slim lock           docker build --target stream .
#   airflow  scheduler, DAG processor, API server, and the pods of steps: the whole lock
#                                                                docker build --target airflow .
# Packages are a layer of their own, so a change of the code rebuilds in seconds.

FROM python:3.11.13-slim-bookworm AS base
RUN pip install --no-cache-dir uv==0.13.8 \
    && useradd --uid 10001 --create-home riskflow \
    && install -d -o riskflow -g riskflow /var/lib/riskflow /var/lib/airflow
WORKDIR /app
ENV VIRTUAL_ENV=/app/.venv \
    PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    RISKFLOW_HOME=/var/lib/riskflow
RUN uv venv .venv

FROM base AS stream
COPY requirements/stream.txt requirements/stream.txt
RUN --mount=type=cache,target=/root/.cache/uv uv pip sync --require-hashes requirements/stream.txt
COPY . .
RUN uv pip install --no-cache --no-deps --editable .
USER riskflow
ENTRYPOINT ["riskflow"]
CMD ["worker"]

FROM base AS airflow
COPY requirements/all.txt requirements/all.txt
COPY ops/image/postgres.txt ops/image/postgres.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip sync --require-hashes requirements/all.txt ops/image/postgres.txt
COPY . .
RUN uv pip install --no-cache --no-deps --editable .
ENV AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/app/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
USER riskflow
ENTRYPOINT ["airflow"]
CMD ["version"]
