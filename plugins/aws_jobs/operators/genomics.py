"""Operators that write the pages of the genomics DAGs and link to them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from aws_jobs import mapping_run
from aws_jobs.aws_clients import aws_client
from aws_jobs.exceptions import OutputError
from aws_jobs.links.console import ConsoleLink, object_url
from aws_jobs.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from airflow.sdk import BaseOperatorLink, Context

    from aws_jobs.settings import Settings


class ReportLink(ConsoleLink):
    """The page that the task has written."""

    name = "Report"


class PageOperator(BaseOperator):
    """Write a page to S3 and link to it.

    :param prices: the price file.
    """

    operator_extra_links: Collection[BaseOperatorLink] = (ReportLink(),)
    ui_color = "#e0d4f9"

    def __init__(
        self, *, prices: Path, aws_conn_id: str | None = "aws_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.prices = prices
        self.aws_conn_id = aws_conn_id
        self.links: dict[str, str] = {}

    @abstractmethod
    def write(self, context: Context, settings: Settings, s3: Any) -> dict[str, Any]:
        """Write the page, and return its URI as ``report``, with what else is to be told."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Write the page and return where it is, with the totals."""
        settings = load_settings()
        s3 = aws_client("s3", self.aws_conn_id, settings.region)
        written = self.write(context, settings, s3)
        self.links = {ReportLink.name: object_url(s3, written["report"])}
        self.log.info("The report is %s: %s", written["report"], self.links[ReportLink.name])
        return written


class MappingReportOperator(PageOperator):
    """Write the report of a mapping run: the page, a row for each attempt, the QC table.

    :param verified: what ``mapping_run.verify`` returned. (templated)
    :param attempts_of: the task whose jobs' attempts are told.
    """

    template_fields: Sequence[str] = ("verified",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"verified": "json"}

    def __init__(self, *, verified: Mapping[str, Any], attempts_of: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verified = verified
        self.attempts_of = attempts_of

    def write(self, context: Context, settings: Settings, s3: Any) -> dict[str, Any]:
        """Write the report at a place of the run's own."""
        from aws_jobs.costs import read_prices
        from aws_jobs.run_report import write_report

        ti, table, arch = context["ti"], self.verified["table"], self.verified["arch"]
        digest = mapping_run.run_digest(mapping_run.owner_of(ti))
        return write_report(
            s3,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            table=table,
            architecture=arch,
            parameters=dict(context["params"]),
            attempts=_attempts(ti, self.attempts_of),
            manifests=self.verified["all_complete"],
            failed=self.verified["failed"],
            prices=read_prices(self.prices),
            output_uri=f"s3://{settings.bucket}/results/{table}/{arch}/reports/{digest}",
        )


class ArchitectureComparisonOperator(PageOperator):
    """Compare what the same samples took on both architectures.

    :param items_of: by architecture the task that returned its items.
    :param attempts_of: by architecture the task whose jobs mapped them.
    """

    def __init__(
        self, *, items_of: Mapping[str, str], attempts_of: Mapping[str, str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.items_of = items_of
        self.attempts_of = attempts_of

    def write(self, context: Context, settings: Settings, s3: Any) -> dict[str, Any]:
        """Write the comparison at a place of the run's own.

        :raises OutputError: after it was written, where a sample is missing on a side.
        """
        from aws_jobs.architecture_comparison import write_comparison
        from aws_jobs.costs import read_prices

        ti = context["ti"]
        table = ti.xcom_pull("preflight")["table"]
        digest = mapping_run.run_digest(mapping_run.owner_of(ti))
        attempts = {side: _attempts(ti, task_id) for side, task_id in self.attempts_of.items()}
        done = {
            side: {each["sample"] for each in records if each["outcome"] == "succeeded"}
            for side, records in attempts.items()
        }
        written = write_comparison(
            s3,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            table=table,
            attempts=attempts,
            manifests={
                side: {
                    item["sample"]: item["done_uri"]
                    for chunk in ti.xcom_pull(task_id)
                    for item in chunk
                    if item["sample"] in done[side]
                }
                for side, task_id in self.items_of.items()
            },
            prices=read_prices(self.prices),
            output_uri=f"s3://{settings.bucket}/benchmarks/{table}/{digest}",
        )
        if written["missing"]:
            raise OutputError(
                f"{written['missing']} samples were not mapped on both sides",
                [f"the rest is compared in {written['report']}"],
            )
        return written


def _attempts(ti: Any, task_id: str) -> list[dict[str, Any]]:
    """Return the records of all mapped tasks; one that has left none has none."""
    pulled = ti.xcom_pull([task_id], key="attempts") or []
    return [record for records in pulled for record in records or []]
