"""How the shared poller asks EMR: as few calls as the API allows, within its quotas."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_clients import aws_client
from aws_jobs.aws_errors import error_code, error_message, is_passing, is_throttled
from aws_jobs.job_flow import STEP_IDS_PER_CALL, is_unknown_id
from aws_jobs.polling import CallRate, Sweep, paced

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Collection,
        Hashable,
        Iterable,
        Mapping,
        Sequence,
    )
    from datetime import datetime

CLUSTERS = "clusters"

_DENIED_CODES = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})

# Calls at once, calls a second; per account and region.
# https://docs.aws.amazon.com/general/latest/gr/emr.html#limits_emr
QUOTAS = {
    "DescribeCluster": (10, 1.0),
    "ListClusters": (20, 0.5),
    "ListSteps": (10, 0.5),
}


class EmrAsk:
    """Asks EMR for clusters and steps.

    :param quota_share: share of the account's quotas that it may use.
    """

    def __init__(self, aws_conn_id: str | None, region: str | None, quota_share: float) -> None:
        self._connection = (aws_conn_id, region)
        self._client: Any = None
        self._rates = {
            call: CallRate(burst * quota_share, refill * quota_share)
            for call, (burst, refill) in QUOTAS.items()
        }
        self._created: dict[str, datetime] = {}
        self._pages = 1

    async def __call__(self, group: Hashable, items: Sequence[str]) -> AsyncIterator[Sweep]:
        """Ask for clusters, or for the steps of the cluster that the group names."""
        if self._client is None:
            self._client = await asyncio.to_thread(aws_client, "emr", *self._connection)
        answers = self._clusters(items) if group == CLUSTERS else self._steps(str(group), items)
        try:
            async for sweep in answers:
                yield sweep
        except Exception as error:
            if not is_passing(error):
                # The connection's credentials may have been changed.
                self._client = None
            raise

    async def _clusters(self, cluster_ids: Sequence[str]) -> AsyncIterator[Sweep]:
        """List when that is cheaper than describing each, counted in what the quotas give back."""
        listable = [cluster_id for cluster_id in cluster_ids if cluster_id in self._created]
        if not _listing_costs_more(self._pages, listable):
            missing = set(listable)
            async for sweep in self._list_clusters(missing):
                yield sweep
            listable = sorted(missing)
        for cluster_id in {*cluster_ids} - self._created.keys() | {*listable}:
            yield await self._unless_throttled(self._describe_cluster(cluster_id))

    async def _describe_cluster(self, cluster_id: str) -> Sweep:
        try:
            answer = await paced(
                self._rates["DescribeCluster"],
                self._client.describe_cluster,
                ClusterId=cluster_id,
            )
        except Exception as error:
            return Sweep({(CLUSTERS, cluster_id): _refusal(error)})
        return self._cluster_states([answer["Cluster"]], {cluster_id})

    async def _list_clusters(self, missing: set[str]) -> AsyncIterator[Sweep]:
        """Page through the clusters until all are found, and take those from ``missing``."""
        oldest = min(self._created[cluster_id] for cluster_id in missing)
        arguments: dict[str, Any] = {"CreatedAfter": oldest - timedelta(seconds=1)}
        pages = 0
        while True:
            answer = await paced(
                self._rates["ListClusters"], self._client.list_clusters, **arguments
            )
            pages += 1
            sweep = self._cluster_states(answer["Clusters"], missing)
            missing -= {item for _, item in sweep.states}
            yield sweep
            # The rest is described where that costs less than to page on through a long history.
            if not missing or not answer.get("Marker") or _listing_costs_more(pages, missing):
                break
            arguments["Marker"] = answer["Marker"]
        self._pages = pages

    def _cluster_states(self, clusters: Iterable[Mapping[str, Any]], wanted: set[str]) -> Sweep:
        states: dict[tuple[Hashable, str], Any] = {}
        for cluster in clusters:
            if cluster["Id"] in wanted:
                status = cluster["Status"]
                if created := status.get("Timeline", {}).get("CreationDateTime"):
                    self._created[cluster["Id"]] = created
                states[(CLUSTERS, cluster["Id"])] = {"State": status["State"]}
        return Sweep(states)

    async def _steps(self, cluster_id: str, step_ids: Sequence[str]) -> AsyncIterator[Sweep]:
        for start in range(0, len(step_ids), STEP_IDS_PER_CALL):
            some = list(step_ids[start : start + STEP_IDS_PER_CALL])
            yield await self._unless_throttled(self._list_steps(cluster_id, some))

    async def _unless_throttled(self, call: Awaitable[Sweep]) -> Sweep:
        """Go on after a throttled call, at half the rate: else those that follow would starve."""
        try:
            return await call
        except Exception as error:
            if is_throttled(error):
                return Sweep()
            raise

    async def _list_steps(self, cluster_id: str, step_ids: list[str]) -> Sweep:
        """Ask for up to ten steps; where EMR does not know one of them, for each alone."""
        try:
            answer = await paced(
                self._rates["ListSteps"],
                self._client.list_steps,
                ClusterId=cluster_id,
                StepIds=step_ids,
            )
        except Exception as error:
            refusal = _refusal(error)
            if refusal or len(step_ids) == 1:
                return Sweep({(cluster_id, step_id): refusal for step_id in step_ids})
            alone = [await self._list_steps(cluster_id, [step_id]) for step_id in step_ids]
            return Sweep({key: state for sweep in alone for key, state in sweep.states.items()})
        found: dict[str, Any] = defaultdict(lambda: None)
        for step in answer["Steps"]:
            status = step["Status"]
            started = status.get("Timeline", {}).get("StartDateTime")
            found[step["Id"]] = {
                "State": status["State"],
                "StartedAt": started.timestamp() if started else None,
            }
        return Sweep({(cluster_id, step_id): found[step_id] for step_id in step_ids})


def _listing_costs_more(pages: int, cluster_ids: Collection[str]) -> bool:
    """Compare pages of a listing with single calls, in seconds of the quotas."""
    return pages / QUOTAS["ListClusters"][1] >= len(cluster_ids) / QUOTAS["DescribeCluster"][1]


def _refusal(error: Exception) -> str | None:
    """Return what AWS says of an id that it does not show, None where it does not know it.

    One id that may not be asked for must not keep the others from being asked for.

    :raises Exception: the error itself, where it is not about the id.
    """
    if is_unknown_id(error):
        return None
    if error_code(error) in _DENIED_CODES:
        return error_message(error)
    raise error


_asks: dict[Hashable, EmrAsk] = {}


def shared_ask(aws_conn_id: str | None, region: str | None, quota_share: float) -> EmrAsk:
    """Return the one that this process has for a connection and region.

    It outlives the streams that use it: what was called a moment ago counts against the quota.
    """
    key = (aws_conn_id, region, quota_share)
    return _asks.setdefault(key, EmrAsk(aws_conn_id, region, quota_share))
