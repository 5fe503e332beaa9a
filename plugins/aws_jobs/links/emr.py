"""Links from a task in Airflow's UI to its cluster, step and logs.

Airflow stores what ``get_link`` returns whenever the task leaves its worker, so a link is there
while the task is deferred. It is taken from the running operator: reading it back from XCom, as the
provider's links do, would cost an API call each, and importing those costs 0.6 s at every parse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from aws_jobs.step_logs import s3_location

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

CLUSTER_LINK = "EMR cluster"
STEP_LINK = "EMR step"
LOGS_LINK = "EMR logs in S3"


class _EmrLink(BaseOperatorLink):
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return what the operator found, or nothing."""
        links: dict[str, str] = getattr(operator, "links", {})
        return links.get(self.name, "")


class EmrClusterLink(_EmrLink):
    """The cluster in the EMR console."""

    name = CLUSTER_LINK


class EmrStepLink(_EmrLink):
    """The step in the EMR console."""

    name = STEP_LINK


class EmrLogsLink(_EmrLink):
    """The logs of the cluster or step in the S3 console."""

    name = LOGS_LINK


EMR_LINKS = (EmrClusterLink(), EmrStepLink(), EmrLogsLink())


def emr_links(
    *, region: str, log_uri: str | None, cluster_id: str, step_id: str | None = None
) -> dict[str, str]:
    """Return the addresses of a cluster, or of a step of it, by the links' names."""
    console = f"https://{region}.{_console_domain(region)}"
    links = {CLUSTER_LINK: f"{console}/emr/home?region={region}#/clusterDetails/{cluster_id}"}
    if step_id:
        links[STEP_LINK] = f"{links[CLUSTER_LINK]}/steps/{step_id}"
    if (location := s3_location(log_uri)) is not None:
        bucket, prefix = location
        below = f"{prefix}/{cluster_id}/" + (f"steps/{step_id}/" if step_id else "")
        links[LOGS_LINK] = f"{console}/s3/buckets/{bucket}?region={region}&prefix={below}"
    return links


def _console_domain(region: str) -> str:
    import botocore.session

    partition: Any = botocore.session.get_session().get_partition_for_region(region)
    return {
        "aws-cn": "console.amazonaws.cn",
        "aws-us-gov": "console.amazonaws-us-gov.com",
    }.get(partition, "console.aws.amazon.com")
