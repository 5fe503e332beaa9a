"""Why a cluster or step failed: what EMR says, and what its logs say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk.exceptions import AirflowFailException

from aws_jobs.aws_task import backstop, in_future
from aws_jobs.emr_task import EmrTaskMixin
from aws_jobs.exceptions import ExternalJobError
from aws_jobs.job_flow import cluster_verdict, memory_failure, step_verdict
from aws_jobs.step_logs import best_excerpt, bootstrap_log_prefix, read_logs, step_log_prefix
from aws_jobs.triggers.s3 import S3ObjectTrigger, object_exists
from aws_jobs.verdicts import FailureClass, Verdict

if TYPE_CHECKING:
    from airflow.sdk import Context


@dataclass(frozen=True)
class Finding:
    """A verdict, and bucket and prefix of the log that tells more, where there is one."""

    verdict: Verdict
    log_at: tuple[str, str] | None = None


class EmrFailuresMixin(EmrTaskMixin):
    """Explains the failure of what an EMR task waited for, then fails the task.

    EMR copies logs to S3 some minutes later: they are waited for in the triggerer.
    """

    no_retry: ClassVar[frozenset[FailureClass]] = frozenset()
    """Failures after which another try of this task cannot help."""

    def judge_cluster(self, cluster_id: str, outcome: str) -> Finding:
        """Return what the end of waiting for a cluster means."""
        cluster = self.describe_cluster(cluster_id)
        verdict = _judged(cluster_verdict(cluster_id, cluster), outcome)
        if verdict.failure is FailureClass.BOOTSTRAP:
            return Finding(verdict, bootstrap_log_prefix(cluster, verdict.reason))
        return Finding(verdict)

    def judge_step(self, cluster_id: str, step_id: str, outcome: str) -> Finding:
        """Return what the end of waiting for a step means."""
        cluster = self.describe_cluster(cluster_id)
        step = self.describe_step(cluster_id, step_id)
        verdict = _judged(step_verdict(cluster_id, step_id, step, cluster), outcome)
        if step and "StartDateTime" not in step["Status"].get("Timeline", {}):
            return Finding(replace(verdict, log_uri="none: the step never ran"))
        return Finding(verdict, step_log_prefix(cluster, step_id))

    def explain(self, finding: Finding) -> NoReturn:
        """Fail the task, with the log's words.

        :raises ExternalJobError: at once, or after the log has been waited for.
        """
        verdict = finding.verdict
        if finding.log_at is None:
            where = verdict.log_uri or "none that names the cause"
            self.fail(replace(verdict, log_uri=where))
        bucket, prefix = finding.log_at
        try:
            there = object_exists(self.client("s3"), bucket, f"{prefix}stderr.gz")
        except Exception as error:
            self.fail(replace(verdict, log_uri=f"s3://{bucket}/{prefix} ({error})"))
        if there:
            self._fail_with_logs(verdict, bucket, prefix)
        self._wait_for_log(verdict, bucket, prefix)

    def explain_with_logs(
        self, context: Context, event: dict[str, Any], verdict: dict[str, Any], prefix: list[str]
    ) -> NoReturn:
        """Fail the task after its log was waited for."""
        failure = FailureClass(verdict["failure"])
        judged = Verdict(**{**verdict, "failure": failure, "cause": (), "tail": ()})
        bucket, below = prefix
        if event["outcome"] == "found":
            self._fail_with_logs(judged, bucket, below)
        waited = f"{self.settings.log_wait_seconds:.0f} s"
        absent = f"s3://{bucket}/{below} has no log after {waited}; look again later"
        self.fail(replace(judged, log_uri=absent))

    def fail(self, verdict: Verdict) -> NoReturn:
        """Write the account into the task's log and raise.

        :raises ExternalJobError: or AirflowFailException where no retry can help.
        """
        self.log.error("%s", verdict.report)
        error = ExternalJobError(verdict)
        if verdict.failure in self.no_retry:
            raise AirflowFailException(verdict.summary) from error
        raise error

    def _wait_for_log(self, verdict: Verdict, bucket: str, prefix: str) -> NoReturn:
        self.log.info("%s", verdict.report)
        self.log.info("Waiting for its log below s3://%s/%s", bucket, prefix)
        deadline = in_future(timedelta(seconds=self.settings.log_wait_seconds))
        self.defer(
            trigger=S3ObjectTrigger(
                bucket=bucket,
                key=f"{prefix}stderr.gz",
                deadline=deadline,
                interval=15.0,
                aws_conn_id=self.aws_conn_id,
                region=self.settings.region,
            ),
            method_name="explain_with_logs",
            kwargs={"verdict": asdict(verdict), "prefix": [bucket, prefix]},
            timeout=backstop(deadline),
        )

    def _fail_with_logs(self, verdict: Verdict, bucket: str, prefix: str) -> NoReturn:
        try:
            excerpt = best_excerpt(read_logs(self.client("s3"), bucket, prefix))
        except Exception as error:
            self.fail(replace(verdict, log_uri=f"s3://{bucket}/{prefix} ({error})"))
        if excerpt is None:
            self.fail(replace(verdict, log_uri=f"s3://{bucket}/{prefix} (its logs are empty)"))
        verdict = memory_failure(verdict, [*excerpt.cause, *excerpt.tail])
        self.fail(replace(verdict, log_uri=excerpt.uri, cause=excerpt.cause, tail=excerpt.tail))


def _judged(verdict: Verdict, outcome: str) -> Verdict:
    """Say it where waiting ended for another reason than the end of the job."""
    if outcome == "timeout":
        reason = f"the time budget was used up. {verdict.reason}".strip()
        return replace(verdict, failure=FailureClass.TIMEOUT, reason=reason)
    if outcome == "unseen":
        reason = f"EMR does not know it. {verdict.reason}".strip()
        return replace(verdict, failure=FailureClass.LOST, reason=reason)
    return verdict
