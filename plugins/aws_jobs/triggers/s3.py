"""Wait for an object in S3."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import error_code, is_passing
from aws_jobs.polling import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NOT_THERE = frozenset({"404", "NoSuchKey", "NotFound"})


class S3ObjectTrigger(BaseTrigger):
    """Wait until an object exists.

    Outcomes: ``found``, ``timeout``, ``refused`` with AWS's message.

    :param deadline: Unix time at which waiting ends.
    :param interval: seconds between two looks at the most; the first come quicker.
    """

    def __init__(
        self,
        *,
        bucket: str,
        key: str,
        deadline: float,
        interval: float,
        aws_conn_id: str | None,
        region: str | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bucket = bucket
        self.key = key
        self.deadline = deadline
        self.interval = interval
        self.aws_conn_id = aws_conn_id
        self.region = region

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on."""
        return (
            "aws_jobs.triggers.s3.S3ObjectTrigger",
            {
                "bucket": self.bucket,
                "key": self.key,
                "deadline": self.deadline,
                "interval": self.interval,
                "aws_conn_id": self.aws_conn_id,
                "region": self.region,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the object is there, or the deadline has passed."""
        began = time.monotonic()
        s3 = await asyncio.to_thread(aws_client, "s3", self.aws_conn_id, self.region)
        pause = 1.0
        while True:
            try:
                found = await asyncio.to_thread(object_exists, s3, self.bucket, self.key)
            except Exception as error:
                if not is_passing(error):
                    await settle(began)
                    yield TriggerEvent({"outcome": "refused", "message": str(error)})
                    return
                found = False
            left = self.deadline - time.time()
            if found or left <= 0:
                await settle(began)
                yield TriggerEvent({"outcome": "found" if found else "timeout"})
                return
            await asyncio.sleep(min(pause, left))
            pause = min(self.interval, pause * 1.5)


def object_exists(s3: Any, bucket: str, key: str) -> bool:
    """Whether S3 has the object.

    :raises botocore.exceptions.ClientError: where it cannot be asked, as without a permission.
    """
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except Exception as error:
        if error_code(error) in _NOT_THERE:
            return False
        raise
    return True
