# Two images from one base: `airflow` (all of Airflow's components) and `localaws`.
#
# The base is plain Python and not apache/airflow: what runs is then exactly requirements.txt, each
# file checked by its hash, and nothing that another image brings along.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/project
COPY requirements-uv.txt ./
# User and group as in Airflow's own images, so that volumes can be taken over.
RUN useradd --uid 50000 --gid 0 --create-home airflow \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements-uv.txt


FROM base AS airflow
COPY requirements.txt ./
RUN VIRTUAL_ENV=/opt/venv uv pip sync --no-cache --require-hashes requirements.txt
# A named volume takes over the owner of the folder that it is mounted on.
RUN install --directory --owner=50000 --group=0 --mode=0770 /opt/airflow \
    && install --directory --owner=50000 --group=0 --mode=0700 /opt/login
COPY airflow-pools.json ./
COPY dags dags/
COPY plugins plugins/
COPY include include/
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/project/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/project/plugins
USER 50000:0
# -P: the folder it stands in is not importable, as it is not in production.
ENTRYPOINT ["python", "-P", "-m", "airflow"]
CMD ["version"]


FROM base AS localaws
COPY requirements-local.txt requirements-spark.txt ./
RUN VIRTUAL_ENV=/opt/venv uv pip sync --no-cache --require-hashes requirements-local.txt \
    && uv venv --python /opt/venv/bin/python /opt/spark \
    && VIRTUAL_ENV=/opt/spark uv pip sync --no-cache --require-hashes requirements-spark.txt
# What Batch jobs run in: bwa and samtools of the distribution, and an environment of their own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bwa=0.7.17-* samtools=1.16.* \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-genomics.txt ./
COPY scripts/debian_packages.py scripts/setup_env.py scripts/setup_genomics.py scripts/
RUN UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 python -m scripts.setup_genomics
COPY localaws localaws/
RUN python -m localaws.spark_setup --env /opt/spark --jars /opt/spark-jars --cds /opt/spark-cds.jsa \
    && install --directory --owner=50000 --group=0 --mode=0700 /var/lib/localaws
COPY include include/
ENV LOCALAWS_SPARK_ENV=/opt/spark \
    LOCALAWS_SPARK_JARS=/opt/spark-jars \
    LOCALAWS_SPARK_CDS=/opt/spark-cds.jsa \
    LOCALAWS_DATA=/var/lib/localaws
USER 50000:0
# Every address of the container; docker-compose.yaml publishes the port on loopback only.
ENTRYPOINT ["python", "-m", "localaws", "--host", "0.0.0.0", "--port", "4570"]
