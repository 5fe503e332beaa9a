"""Keep a lease on a shared cluster while a trigger waits for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import is_passing
from aws_jobs.cluster_lease import Lease, LeaseTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping

log = logging.getLogger(__name__)

# A renewal that fails is tried again after this share of the lease's time.
_AFTER_FAILURE = 0.1
_AFTER_SUCCESS = 1 / 3
# A renewal is made in a thread of the triggerer's few.
_CALL_SECONDS = 10.0

_tables: dict[Hashable, LeaseTable] = {}


def lease_table(table: str, aws_conn_id: str | None, region: str | None) -> LeaseTable:
    """Return the table of this process for a connection and region; it has one client."""
    key = (table, aws_conn_id, region)
    if key not in _tables:
        client = aws_client("dynamodb", aws_conn_id, region)
        _tables[key] = LeaseTable(client, table, budget=_CALL_SECONDS)
    return _tables[key]


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
    """Renew until the lease is over; while DynamoDB fails, try again later.

    A cluster that nobody shares has no item, so the first renewal says that there is no lease.
    """
    table, lease = split_arguments(arguments)
    was_held = False
    while True:
        try:
            renewed = await asyncio.to_thread(_renew, table, lease, aws_conn_id, region)
        except Exception as error:
            log.warning("The lease on %s was not renewed: %s", lease.cluster_id, error)
            if not is_passing(error):
                # The connection's credentials may have been changed.
                _tables.pop((table, aws_conn_id, region), None)
            await asyncio.sleep(lease.seconds * _AFTER_FAILURE)
            continue
        if not renewed:
            if was_held:
                log.warning("%s has no lease on %s any more", lease.user, lease.cluster_id)
            return
        was_held = True
        await asyncio.sleep(lease.seconds * _AFTER_SUCCESS)


def _renew(table: str, lease: Lease, aws_conn_id: str | None, region: str | None) -> bool:
    return lease_table(table, aws_conn_id, region).renew(lease)


def split_arguments(arguments: Mapping[str, Any]) -> tuple[str, Lease]:
    """Return table and lease of a trigger's argument; unknown fields are a newer version's."""
    known = {key: arguments[key] for key in Lease.__dataclass_fields__ if key in arguments}
    return arguments["table"], Lease(**known)
