"""Links from a Batch task in Airflow's UI to its job and its log."""

from __future__ import annotations

from urllib.parse import quote

from aws_jobs.links.console import ConsoleLink, console_url

JOB_LINK = "Batch job"
LOG_LINK = "Log in CloudWatch"


class BatchJobLink(ConsoleLink):
    """The job in the Batch console."""

    name = JOB_LINK


class BatchLogLink(ConsoleLink):
    """The log stream of the job's last attempt."""

    name = LOG_LINK


BATCH_LINKS = (BatchJobLink(), BatchLogLink())


def batch_links(
    *, region: str, job_id: str, log_group: str, log_stream: str | None = None
) -> dict[str, str]:
    """Return the addresses of a job and of its log, by the links' names."""
    console = console_url(region)
    links = {JOB_LINK: f"{console}/batch/home?region={region}#jobs/detail/{job_id}"}
    if log_stream:
        where = f"log-group/{_escaped(log_group)}/log-events/{_escaped(log_stream)}"
        links[LOG_LINK] = f"{console}/cloudwatch/home?region={region}#logsV2:log-groups/{where}"
    return links


def _escaped(name: str) -> str:
    """Escape a name as CloudWatch's console does: twice, with a dollar sign for the percent."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")
