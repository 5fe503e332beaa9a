"""What the mapping's tasks ask AWS with: the settings of the deployment, and its clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_clients import aws_client
from aws_jobs.exceptions import SettingsError
from aws_jobs.samples import SampleTable
from aws_jobs.settings import VARIABLE, load_settings

if TYPE_CHECKING:
    from aws_jobs.settings import GenomicsSettings, Settings


@dataclass(frozen=True)
class MappingClients:
    """Settings and clients, each made when it is first asked for."""

    aws_conn_id: str = "aws_default"

    @cached_property
    def settings(self) -> Settings:
        """The deployment's settings."""
        return load_settings()

    @cached_property
    def genomics(self) -> GenomicsSettings:
        """The settings of the genomics stack.

        :raises SettingsError: where there are none.
        """
        if self.settings.genomics is None:
            raise SettingsError(
                f"The Airflow variable {VARIABLE!r} has no genomics",
                ["set it from the outputs of the stack in include/infra/genomics.yaml"],
            )
        return self.settings.genomics

    @cached_property
    def s3(self) -> Any:
        """A client of S3."""
        return self._client("s3")

    @cached_property
    def batch(self) -> Any:
        """A client of Batch."""
        return self._client("batch")

    @cached_property
    def ec2(self) -> Any:
        """A client of EC2."""
        return self._client("ec2")

    @cached_property
    def dynamodb(self) -> Any:
        """A client of DynamoDB."""
        return self._client("dynamodb")

    def table(self, name: str) -> SampleTable:
        """Return a table of samples."""
        return SampleTable(self.dynamodb, name, self.settings.bucket)

    def _client(self, service: str) -> Any:
        return aws_client(service, self.aws_conn_id, self.settings.region)
