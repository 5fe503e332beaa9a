"""Links from an EMR task in Airflow's UI to its cluster, step and logs."""

from __future__ import annotations

from aws_jobs.links.console import ConsoleLink, console_url
from aws_jobs.step_logs import s3_location

CLUSTER_LINK = "EMR cluster"
STEP_LINK = "EMR step"
LOGS_LINK = "EMR logs in S3"


class EmrClusterLink(ConsoleLink):
    """The cluster in the EMR console."""

    name = CLUSTER_LINK


class EmrStepLink(ConsoleLink):
    """The step in the EMR console."""

    name = STEP_LINK


class EmrLogsLink(ConsoleLink):
    """The logs of the cluster or step in the S3 console."""

    name = LOGS_LINK


EMR_LINKS = (EmrClusterLink(), EmrStepLink(), EmrLogsLink())


def emr_links(
    *, region: str, log_uri: str | None, cluster_id: str, step_id: str | None = None
) -> dict[str, str]:
    """Return the addresses of a cluster, or of a step of it, by the links' names."""
    console = console_url(region)
    links = {CLUSTER_LINK: f"{console}/emr/home?region={region}#/clusterDetails/{cluster_id}"}
    if step_id:
        links[STEP_LINK] = f"{links[CLUSTER_LINK]}/steps/{step_id}"
    if (location := s3_location(log_uri)) is not None:
        bucket, prefix = location
        below = f"{prefix}/{cluster_id}/" + (f"steps/{step_id}/" if step_id else "")
        links[LOGS_LINK] = f"{console}/s3/buckets/{bucket}?region={region}&prefix={below}"
    return links
