"""What a job tells of its sample in the DynamoDB table: forwards only, and only if it is its own.

Status: 1 started, 2 the BAM is complete on the node, 3 it is verified in S3, 4 the coverage is
stored and verified, -1 failed. Each write names the owner and the attempt that it is for: one that
AWS refuses for its condition means that another attempt has taken the sample over.
"""

from __future__ import annotations

import random
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from read_mapping.exceptions import MappingError, SupersededError
from read_mapping.resources import utc_now

STARTED, BAM_COMPLETE, BAM_STORED, DONE, FAILED = 1, 2, 3, 4, -1
# A job of hours does not fail because the table is throttled for minutes.
PATIENCE = 300.0
# After SIGTERM, Batch waits 30 s before it kills.
SHORT_PATIENCE = 5.0
REASON_CHARACTERS = 1000
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
PASSING = {
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
}


class SampleTable:
    """One sample's item, as seen by one attempt; without a table it does nothing."""

    def __init__(
        self,
        table: str | None,
        sample: str,
        owner: str | None,
        attempt_key: str,
        client: Any = None,
    ) -> None:
        self._table = table
        self._key = {"sample": {"S": sample}}
        self._owner = owner
        self._attempt_key = attempt_key
        self._own = client
        self._patience = PATIENCE

    def start(self, job_id: str | None) -> None:
        """Take the sample for this attempt, unless a later one has it.

        Raises SupersededError.
        """
        now = utc_now()
        texts = {"attempt_key": self._attempt_key, "started_at": now, "updated_at": now}
        texts |= {"job_id": job_id} if job_id else {}
        numbers = {"status": STARTED}
        removed = ("reason", "finished_at")
        newer = "(attribute_not_exists(attempt_key) OR attempt_key < :attempt_key)"
        if self._update(newer, texts, numbers, removed, count=True):
            return
        # The same attempt again: an answer was lost, or Batch has moved it. It is counted once.
        if not self._update("attempt_key = :attempt_key", texts, numbers, removed):
            raise self._superseded()

    def progress(self, status: int, **texts: str) -> None:
        """Raise the status.

        Raises SupersededError.
        """
        texts["updated_at"] = utc_now()
        mine = "attempt_key = :attempt_key AND #status < :status"
        if self._update(mine, texts, {"status": status}) or self._has_reached(status):
            return
        raise self._superseded()

    def confirm(self, status: int) -> None:
        """Make sure that the sample is still this attempt's.

        Raises SupersededError.
        """
        if self._table is not None and not self._has_reached(status):
            raise self._superseded()

    def fail(self, reason: str, *, quickly: bool = False) -> None:
        """Say why the sample failed, unless another attempt has it or it is done."""
        self._patience = SHORT_PATIENCE if quickly else PATIENCE
        now = utc_now()
        texts = {"reason": reason[:REASON_CHARACTERS], "finished_at": now, "updated_at": now}
        done = "attempt_key = :attempt_key AND #status <> :done"
        self._update(done, texts, {"status": FAILED}, more={":done": {"N": str(DONE)}})

    def _superseded(self) -> SupersededError:
        return SupersededError("superseded: another attempt owns the sample now")

    def _has_reached(self, status: int) -> bool:
        """Tell whether a write took effect whose answer was lost."""
        found = self._call("get_item", ConsistentRead=True).get("Item", {})
        mine = (found.get("owner"), found.get("attempt_key"))
        return mine == ({"S": self._owner}, {"S": self._attempt_key}) and (
            int(found["status"]["N"]) >= status
        )

    def _update(
        self,
        condition: str,
        texts: dict[str, str],
        numbers: dict[str, int],
        removed: tuple[str, ...] = (),
        *,
        count: bool = False,
        more: dict[str, Any] | None = None,
    ) -> bool:
        """Write attributes if the sample is this owner's and the condition holds."""
        if self._table is None:
            return True
        values: dict[str, Any] = {f":{name}": {"S": value} for name, value in texts.items()}
        values |= {f":{name}": {"N": str(value)} for name, value in numbers.items()}
        values |= {":owner": {"S": self._owner}, ":attempt_key": {"S": self._attempt_key}}
        values |= {":one": {"N": "1"}} if count else {}
        expression = "SET " + ", ".join(f"#{name} = :{name}" for name in (*texts, *numbers))
        expression += " REMOVE " + ", ".join(f"#{name}" for name in removed) if removed else ""
        expression += " ADD attempt :one" if count else ""
        # `status` and `owner` are reserved words of expressions.
        names = {f"#{name}": name for name in ("owner", "status", *texts, *numbers, *removed)}
        try:
            self._call(
                "update_item",
                UpdateExpression=expression,
                ConditionExpression=f"#owner = :owner AND {condition}",
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values | (more or {}),
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        """Make a call, again and again while it is the service's fault, with jitter."""
        give_up = time.monotonic() + self._patience
        pause = 0.1
        while True:
            try:
                call = getattr(self._client(), operation)
                answer: dict[str, Any] = call(TableName=self._table, Key=self._key, **request)
                return answer
            except (BotoCoreError, ClientError) as error:
                if isinstance(error, ClientError) and not _is_passing(error):
                    raise
                if time.monotonic() >= give_up:
                    raise MappingError(
                        f"the table {self._table} cannot be written: {error}"
                    ) from error
            time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
            pause = min(2 * pause, 10.0)

    def _client(self) -> Any:
        if self._own is None:
            config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
            self._own = boto3.client("dynamodb", config=config)
        return self._own


def _is_passing(error: ClientError) -> bool:
    status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return status >= 500 or error.response["Error"]["Code"] in PASSING
