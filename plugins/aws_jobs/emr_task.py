"""What EMR's operators and sensors have in common."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_task import AwsTaskMixin
from aws_jobs.links.emr import EMR_LINKS, emr_links

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.sdk import BaseOperatorLink


class EmrTaskMixin(AwsTaskMixin):
    """Links and descriptions of an EMR task."""

    service = "emr"
    operator_extra_links: Collection[BaseOperatorLink] = EMR_LINKS

    @cached_property
    def emr(self) -> Any:
        """EMR, each call made once."""
        return self.client("emr")

    def show_links(self, cluster_id: str, step_id: str | None = None) -> None:
        """Offer links in the UI; without them the task goes on."""
        log_uri = f"s3://{self.settings.bucket}/{self.settings.log_prefix}"
        try:
            self.links = emr_links(
                region=self.settings.region,
                log_uri=log_uri,
                cluster_id=cluster_id,
                step_id=step_id,
            )
        except Exception as error:
            self.log.warning("No links for %s: %s", cluster_id, error)

    def describe_cluster(self, cluster_id: str) -> dict[str, Any]:
        """Return DescribeCluster's ``Cluster``, or what is known without it."""
        cluster = self.describe(lambda: self.emr.describe_cluster(ClusterId=cluster_id), "Cluster")
        return {"Id": cluster_id, **cluster}

    def describe_step(self, cluster_id: str, step_id: str) -> dict[str, Any]:
        """Return DescribeStep's ``Step``, or nothing."""
        return self.describe(
            lambda: self.emr.describe_step(ClusterId=cluster_id, StepId=step_id), "Step"
        )
