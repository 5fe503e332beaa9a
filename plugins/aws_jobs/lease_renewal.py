"""Keep a lease on a shared cluster while a trigger waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import is_passing
from aws_jobs.cluster_lease import Lease, LeaseTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping

T = TypeVar("T")

log = logging.getLogger(__name__)

# A renewal that fails is tried again after this share of the lease's time.
_AFTER_FAILURE = 0.1
_AFTER_SUCCESS = 1 / 3
# A thread that waits for DynamoDB waits for no other lease meanwhile.
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 1.0

_tables: dict[Hashable, LeaseTable] = {}


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that ask DynamoDB: where it hangs, AWS is asked in the triggerer's own."""
    return ThreadPoolExecutor(2, thread_name_prefix="leases")


async def in_lease_thread(call: Callable[[], T]) -> T:
    """Wait for a call to the table of leases."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


def lease_table(table: str, aws_conn_id: str | None, region: str | None) -> LeaseTable:
    """Return the table of this process for a connection and region; it has one client."""
    key = (table, aws_conn_id, region)
    if key not in _tables:
        client = aws_client("dynamodb", aws_conn_id, region)
        _tables[key] = LeaseTable(client, table, budget=_CALL_SECONDS)
    return _tables[key]


def forget_client(table: str, aws_conn_id: str | None, region: str | None) -> None:
    """Make the next client anew: the connection's credentials may have been changed."""
    _tables.pop((table, aws_conn_id, region), None)


@asynccontextmanager
async def renewing(
    lease: Mapping[str, Any] | None, aws_conn_id: str | None, region: str | None
) -> AsyncIterator[None]:
    """Renew a lease at once and at a third of its time, for as long as the block lasts.

    :param lease: :meth:`Lease.arguments` and the ``table``; None where there is none.
    """
    if lease is None:
        yield
        return
    task = asyncio.create_task(_renew_for_ever(lease, aws_conn_id, region))
    try:
        yield
    finally:
        task.cancel()


async def _renew_for_ever(
    arguments: Mapping[str, Any], aws_conn_id: str | None, region: str | None
) -> None:
    """Renew until the lease is over; while DynamoDB fails, try again later."""
    table, lease = split_arguments(arguments)
    while True:
        try:
            renewed = await in_lease_thread(
                lambda: lease_table(table, aws_conn_id, region).renew(lease)
            )
        except Exception as error:
            log.warning("The lease on %s was not renewed: %s", lease.cluster_id, error)
            if not is_passing(error):
                forget_client(table, aws_conn_id, region)
            await asyncio.sleep(_pause(lease.seconds * _AFTER_FAILURE))
            continue
        if not renewed:
            log.warning("%s has no lease on %s any more", lease.user, lease.cluster_id)
            return
        await asyncio.sleep(_pause(lease.seconds * _AFTER_SUCCESS))


def _pause(seconds: float) -> float:
    """Return a time about as long, so that runs that began together do not all renew at once."""
    return max(_PAUSE_SECONDS, seconds * random.uniform(0.8, 1.0))  # noqa: S311 - jitter


def split_arguments(arguments: Mapping[str, Any]) -> tuple[str, Lease]:
    """Return table and lease of a trigger's argument; unknown fields are a newer version's."""
    known = {key: arguments[key] for key in Lease.__dataclass_fields__ if key in arguments}
    return arguments["table"], Lease(**known)
