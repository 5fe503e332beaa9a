"""Everything that can be known to be wrong before a cluster is paid for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from aws_jobs.aws_errors import call_patiently
from aws_jobs.aws_task import backstop, in_future
from aws_jobs.emr_task import EmrTaskMixin
from aws_jobs.exceptions import InputError, InvalidRequestError
from aws_jobs.job_flow_spec import conform_job_flow, conform_steps
from aws_jobs.raw_csv import HEAD_BYTES, head_problems
from aws_jobs.s3_uri import split_uri
from aws_jobs.triggers.s3 import S3ObjectTrigger, object_exists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow.sdk import Context

_READ_BUDGET = 120.0


class EmrPreflightSensor(EmrTaskMixin, BaseSensorOperator):
    """Check the job flow and its steps, then wait for the raw object and look at its head.

    A scheduled run waits for its data as long as the setting ``input_wait_seconds`` says, and is
    skipped where none came. A run that somebody asked for has its data, or fails.

    Returns ``values`` and the ``input_uri``, for the tasks that follow.

    :param input_uri: the raw CSV object, ``s3://...``. (templated)
    :param columns: its header.
    :param job_flow: RunJobFlow's arguments. (templated)
    :param steps: the steps that will be submitted. (templated)
    """

    template_fields: Sequence[str] = ("input_uri", "job_flow", "steps")
    template_fields_renderers: ClassVar[dict[str, str]] = {"job_flow": "json", "steps": "json"}
    operator_extra_links = ()
    ui_color = "#d9e8f9"

    def __init__(
        self,
        *,
        input_uri: str,
        columns: Sequence[str],
        job_flow: dict[str, Any],
        steps: Sequence[dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_uri = input_uri
        self.columns = columns
        self.job_flow = job_flow
        self.steps = steps

    def execute(self, context: Context) -> Any:
        """Check what is known, then look for the raw object.

        :raises InvalidRequestError: with every problem of the job flow, the steps and their code.
        :raises InputError: where the raw object is missing, or is no CSV with rows.
        """
        s3 = self.client("s3")
        self._check_requests(s3)
        bucket, key = split_uri(self.input_uri)
        if self._exists(s3, self.input_uri):
            return self._checked(s3)
        run_type = str(getattr(context["dag_run"].run_type, "value", context["dag_run"].run_type))
        if run_type != "scheduled":
            raise InputError(
                f"The raw data of this {run_type} run is missing",
                [f"{self.input_uri} does not exist: upload it, or ask for another day"],
            )
        deadline = in_future(timedelta(seconds=self.settings.input_wait_seconds))
        self.log.info("Waiting for %s", self.input_uri)
        self.defer(
            trigger=S3ObjectTrigger(
                bucket=bucket,
                key=key,
                deadline=deadline,
                interval=self.poll_interval.total_seconds(),
                aws_conn_id=self.aws_conn_id,
                region=self.settings.region,
            ),
            method_name="execute_complete",
            timeout=backstop(deadline),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Look at the object that came, or skip the run."""
        if event["outcome"] == "timeout":
            waited = timedelta(seconds=self.settings.input_wait_seconds)
            raise AirflowSkipException(
                f"No raw data: {self.input_uri} has not come within {waited}. No cluster was "
                "started. Upload it and clear this task to run the day."
            )
        if event["outcome"] == "refused":
            raise InputError("The raw data cannot be looked for", [event["message"]])
        return self._checked(self.client("s3"))

    def _check_requests(self, s3: Any) -> None:
        """Refuse all at once what is wrong with the requests and the code that they name."""
        problems: list[str] = []
        for check in (self._conform_job_flow, self._conform_steps):
            try:
                check()
            except InvalidRequestError as error:
                problems += error.problems
        problems += [
            f"{uri}, which a step runs, does not exist: upload include/spark"
            for uri in code_uris(self.steps)
            if not self._exists(s3, uri)
        ]
        if problems:
            raise InvalidRequestError("This run would fail on AWS", problems)

    def _conform_job_flow(self) -> None:
        _, warnings = conform_job_flow(self.job_flow)
        for warning in warnings:
            self.log.warning("%s", warning)

    def _conform_steps(self) -> None:
        level = self.job_flow.get("StepConcurrencyLevel", 1)
        conform_steps(self.steps, concurrency=int(level) if str(level).isdigit() else 1)

    def _checked(self, s3: Any) -> dict[str, str]:
        bucket, key = split_uri(self.input_uri)
        answer = self._patiently(
            lambda: (
                s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{HEAD_BYTES - 1}")
                if self._size(s3, bucket, key)
                else None
            )
        )
        head: bytes = answer["Body"].read() if answer else b""
        if problems := head_problems(head, self.columns):
            error = InputError(f"The raw data {self.input_uri} cannot be used", problems)
            raise AirflowFailException(str(error)) from error
        self.log.info("%s is there", self.input_uri)
        return {**self.values, "input_uri": self.input_uri}

    def _size(self, s3: Any, bucket: str, key: str) -> int:
        """Return the size: S3 refuses a range of an empty object."""
        return int(s3.head_object(Bucket=bucket, Key=key)["ContentLength"])

    def _exists(self, s3: Any, uri: str) -> bool:
        bucket, key = split_uri(uri)
        return bool(self._patiently(lambda: object_exists(s3, bucket, key)))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        return call_patiently(call, budget=_READ_BUDGET)


def code_uris(steps: Iterable[dict[str, Any]]) -> list[str]:
    """Return the scripts and jars in S3 that steps run, each once."""
    arguments = [
        argument
        for step in steps
        for argument in (step.get("HadoopJarStep") or {}).get("Args") or []
        if isinstance(argument, str)
    ]
    return sorted(
        {
            argument
            for argument in arguments
            if argument.startswith("s3://") and argument.endswith((".py", ".jar", ".sh"))
        }
    )
