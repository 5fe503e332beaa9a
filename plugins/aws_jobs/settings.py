"""What differs between accounts: the Airflow variable ``aws_jobs``, one JSON object."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from aws_jobs.exceptions import SettingsError

VARIABLE = "aws_jobs"

# As the templates in include/infra take it: it is part of the names of roles and of a database.
DeploymentId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")]
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# https://docs.aws.amazon.com/tag-editor/latest/userguide/tagging.html
TagValue = Annotated[str, StringConstraints(pattern=r"^[\w\s.:/=+\-@]+$", max_length=256)]
Prefix = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*$")
]

Architecture = Literal["graviton", "x86"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


class GenomicsSettings(BaseModel):
    """What the genomics DAGs run on: the outputs of ``include/infra/genomics.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_table: Name
    reference: Prefix = "ref_data/derep_all.fa"
    """Key of the reference's FASTA file in the bucket; its bwa index lies beside it."""
    queues: dict[Architecture, Annotated[tuple[Name, ...], Field(min_length=1, max_length=4)]]
    """Job queues by architecture, in the order in which a job falls back that loses its host."""
    job_definitions: dict[Architecture, Name]
    merge_queue: Name
    merge_job_definition: Name
    vcpus: Annotated[int, Field(ge=1)] = 64
    """vCPUs of a mapping job: those of a 16xlarge."""
    memory_mib: Annotated[int, Field(ge=4)] = 500_000
    """Memory of a mapping job, in MiB: what ECS leaves of the 512 GiB of a 16xlarge."""
    memory_cap_mib: Annotated[int, Field(ge=4)] = 500_000
    """The most that a job which ran out of memory is given; what the largest instance can hold."""

    @model_validator(mode="after")
    def _every_architecture_is_there(self) -> GenomicsSettings:
        for name, given in (("queues", self.queues), ("job_definitions", self.job_definitions)):
            if missing := [each for each in ARCHITECTURES if each not in given]:
                raise ValueError(f"{name} has nothing for {', '.join(missing)}")
        if self.memory_cap_mib < self.memory_mib:
            raise ValueError("memory_cap_mib is below memory_mib")
        return self


class Settings(BaseModel):
    """One deployment of this project in one AWS account and region.

    The names are the outputs of the stacks in ``include/infra``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment_id: DeploymentId
    """Names this Airflow in the account; tags, look-ups and clean-ups see only its own."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
    bucket: BucketName
    log_prefix: Prefix = "elasticmapreduce"
    code_prefix: Prefix = "code"
    emr_service_role: Name
    emr_instance_profile: Name
    emr_subnet_id: Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-z]+$")]
    glue_database: Name
    owner: TagValue
    cost_centre: TagValue
    quota_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the account's API quotas that one triggerer may use: others use them too."""
    batch_poll_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    """Seconds between two looks at the Batch jobs that are waited for, at the least."""
    lookup_grace_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    """How long a submission of unknown outcome is looked for, because listings lag."""
    input_wait_seconds: Annotated[float, Field(ge=0, le=86_400)] = 21_600.0
    """How long a scheduled run waits for its raw data before it is skipped."""
    log_wait_seconds: Annotated[float, Field(ge=0, le=3600)] = 360.0
    """How long a failed step's log is waited for: EMR copies logs about every five minutes."""
    leases_table: Name | None = None
    """DynamoDB table of the leases on clusters that runs share; without it none is shared."""
    genomics: GenomicsSettings | None = None
    """Only the genomics DAGs need it."""


def parse_settings(raw: Any) -> Settings:
    """Check the variable's content.

    :param raw: the decoded JSON of the variable, or None where it is not set.
    :raises SettingsError: with every problem.
    """
    if not isinstance(raw, dict):
        raise SettingsError(
            f"The Airflow variable {VARIABLE!r} is not set to a JSON object",
            ["set it, or AIRFLOW_VAR_AWS_JOBS, from the outputs of the stacks in include/infra"],
        )
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError(f"The Airflow variable {VARIABLE!r} has problems", problems) from None


def require_genomics(settings: Settings) -> GenomicsSettings:
    """Return the part that the genomics DAGs need.

    :raises SettingsError: where it is not set.
    """
    if settings.genomics is None:
        raise SettingsError(
            f"The Airflow variable {VARIABLE!r} has no genomics part",
            ["add it from the outputs of the stack of include/infra/genomics.yaml"],
        )
    return settings.genomics


def load_settings() -> Settings:
    """Read the settings inside a task.

    :raises SettingsError: with every problem.
    """
    from airflow.sdk import Variable

    return parse_settings(Variable.get(VARIABLE, default=None, deserialize_json=True))
