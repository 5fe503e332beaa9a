"""Who uses a shared cluster: items of a DynamoDB table, written on conditions only.

A cluster's item holds its users, each with an expiry; a pool's item holds the clusters that may be
joined, and who is about to found the next. A cluster is open until its last user leaves: that write
says ``closing``, and from then on nobody joins and whoever sees it may end the cluster.
"""

from __future__ import annotations

import logging
import random
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from aws_jobs.aws_errors import call_patiently, error_code, is_passing
from aws_jobs.exceptions import AwsJobsError
from aws_jobs.identity import TAG_POOL
from aws_jobs.job_flow import STEP_ACTIVE, cancel_steps, is_unknown_id, terminate_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

log = logging.getLogger(__name__)

OPEN, CLOSING = "open", "closing"
# A founder that has not founded by then, nor tried to, is taken for dead: RunJobFlow answers within
# seconds, and is repeated more often.
FOUNDING_SECONDS = 120
# An item is kept so long after it was last written, for those who still ask; then DynamoDB's time
# to live removes it. Leases are renewed far more often.
_KEPT_SECONDS = 30 * 86_400
_BUDGET = 300.0
# DescribeCluster is repeated this long, in seconds, while EMR throttles.
_READ_BUDGET = 300.0
# A transaction that touches the same item: the write took no effect.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html
_CONFLICT_CODES = frozenset({"TransactionConflictException", "TransactionInProgressException"})
_CONFLICT_REASONS = frozenset(
    {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
)


@dataclass(frozen=True)
class Lease:
    """One user's hold on a shared cluster.

    :param user: as :func:`lease_user` names it.
    :param use: this acquisition; the same user's next has another.
    :param seconds: how long it holds without being renewed.
    """

    cluster_id: str
    user: str
    use: str
    seconds: float = 3600.0

    @property
    def cluster_use(self) -> str:
        """A name that no other acquisition of any cluster has."""
        return f"{self.cluster_id}-{self.use}"

    def arguments(self) -> dict[str, Any]:
        """Return the lease as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Hold:
    """What a cluster's item says of one user.

    :param expires: Unix time, in seconds.
    :param steps: ids of the steps that it has submitted.
    """

    use: str
    expires: float
    seconds: float
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class SharedCluster:
    """A cluster's item, as it was read.

    :param founded_at: Unix time, in seconds.
    """

    cluster_id: str
    deployment: str
    pool_id: str
    founded_at: float
    state: str
    users: Mapping[str, Hold]
    stored_users: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_closing(self) -> bool:
        """Whether nobody may join any more, and whoever sees it may end the cluster."""
        return self.state != OPEN

    @property
    def age(self) -> float:
        """Seconds since it was founded."""
        return time.time() - self.founded_at

    def live_users(self) -> list[str]:
        """Return the users whose lease has not expired."""
        now = time.time()
        return [user for user, hold in self.users.items() if hold.expires > now]

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is in force: expired or not, nobody has ended it."""
        hold = self.users.get(lease.user)
        return not self.is_closing and hold is not None and hold.use == lease.use

    def lease_of_run(self, dag_id: str, run_id: str) -> Lease | None:
        """Return the lease of a run, which has one at the most on a cluster."""
        for user, hold in self.users.items():
            if user_owner(user)[:2] == (dag_id, run_id):
                return Lease(self.cluster_id, user, hold.use, hold.seconds)
        return None


@dataclass(frozen=True)
class Pool:
    """A pool's item, as it was read.

    :param founder: the user who is about to found a cluster.
    :param founding_until: Unix time at which the founder is taken for dead.
    """

    cluster_ids: tuple[str, ...] = ()
    founder: str | None = None
    founding_until: float = 0.0

    @property
    def is_being_founded(self) -> bool:
        """Whether somebody is about to found a cluster."""
        return self.founder is not None and self.founding_until > time.time()


def lease_user(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Name the task instance that holds a lease; each part is escaped as in a URL.

    >>> lease_user("etl", "manual__2013-01-01T00:00:00+00:00", "create_cluster", -1)
    'etl/manual__2013-01-01T00:00:00+00:00/create_cluster/-1'
    """
    parts = (quote(part, safe=":+") for part in (dag_id, run_id, task_id))
    return f"{'/'.join(parts)}/{map_index}"


def user_owner(user: str) -> tuple[str, str, str, int]:
    """Return DAG, run, task and map index of a user.

    :raises ValueError: where it is no name of :func:`lease_user`.
    """
    dag_id, run_id, task_id, map_index = user.split("/")
    return unquote(dag_id), unquote(run_id), unquote(task_id), int(map_index)


class LeaseError(AwsJobsError):
    """The table did not settle a lease in time."""


@dataclass(frozen=True)
class LeaseTable:
    """The leases of one table. All reads are consistent; each write may safely be made twice.

    :param dynamodb: a client that makes each call once.
    :param name: the table's.
    :param budget: seconds for which a call is repeated while DynamoDB throttles or fails.
    """

    dynamodb: Any
    name: str
    budget: float = _BUDGET

    def cluster(self, cluster_id: str) -> SharedCluster | None:
        """Read a cluster's item; None for a cluster that nobody shares."""
        item = self._item(cluster_id)
        if not item or "users" not in item:
            return None
        stored: dict[str, Any] = item["users"]["M"]
        return SharedCluster(
            cluster_id=cluster_id,
            deployment=item["deployment"]["S"],
            pool_id=item["pool"]["S"],
            founded_at=float(item["founded_at"]["N"]),
            state=item["state"]["S"],
            users={user: _hold(hold["M"]) for user, hold in stored.items()},
            stored_users=stored,
        )

    def pool(self, pool_id: str) -> Pool:
        """Read a pool's item; one that is not there has no clusters."""
        item = self._item(pool_id) or {}
        founding = item.get("founding", {}).get("M")
        return Pool(
            cluster_ids=tuple(sorted(item.get("clusters", {}).get("SS", ()))),
            founder=founding["user"]["S"] if founding else None,
            founding_until=float(founding["expires"]["N"]) if founding else 0.0,
        )

    def join(self, read: SharedCluster, lease: Lease) -> bool:
        """Add a user to a cluster; False where it changed since it was read."""
        users = {**read.stored_users, lease.user: _stored_hold(lease)}
        return self._swap_users(read, users, OPEN)

    def renew(self, lease: Lease) -> bool:
        """Put off a lease's expiry; False where it has been given back, or the cluster closes."""
        return self._write(
            lease.cluster_id,
            "SET #users.#user.#expires = :expires, #users.#user.#seconds = :seconds"
            ", #tidy_after = :later",
            "#state = :open AND #users.#user.#use = :use",
            names={"user": lease.user},
            values={
                "expires": _number(time.time() + lease.seconds),
                "seconds": _number(lease.seconds),
                "later": _later(),
                "open": {"S": OPEN},
                "use": {"S": lease.use},
            },
        )

    def note_steps(self, lease: Lease, step_ids: Sequence[str]) -> bool:
        """Note what a user has submitted; False where its lease has been given back."""
        return self._write(
            lease.cluster_id,
            "SET #users.#user.#steps ="
            " list_append(if_not_exists(#users.#user.#steps, :none), :ids)",
            "#users.#user.#use = :use",
            names={"user": lease.user},
            values={
                "none": {"L": []},
                "ids": {"L": [{"S": step_id} for step_id in step_ids]},
                "use": {"S": lease.use},
            },
        )

    def release(self, lease: Lease, *, spare: bool = False) -> SharedCluster | None:
        """Take a user from a cluster, by the same write closing it where no live user is left.

        A lease that is not in force changes nothing, but an open cluster without a live user is
        closed all the same.

        :param spare: whether users whose lease has expired keep the cluster open too.
        :returns: the cluster as it is then, None where nobody shares it.
        :raises LeaseError: where others were faster until the budget was used up.
        """
        give_up = time.monotonic() + self.budget
        while True:
            read = self.cluster(lease.cluster_id)
            if read is None or read.is_closing:
                return read
            users = dict(read.stored_users)
            if read.holds(lease):
                del users[lease.user]
            in_use = any(user in users for user in (read.users if spare else read.live_users()))
            if in_use and len(users) == len(read.users):
                return read
            state = OPEN if in_use else CLOSING
            if self._swap_users(read, users, state):
                left = {user: hold for user, hold in read.users.items() if user in users}
                return replace(read, users=left, stored_users=users, state=state)
            if time.monotonic() >= give_up:
                raise LeaseError(
                    f"The lease of {lease.user} on cluster {lease.cluster_id} could not be given "
                    f"back in {self.budget:.0f} s: others changed the item all the time. It "
                    "expires; the retry gives it back."
                )
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - jitter

    def close(self, cluster_id: str) -> bool:
        """Let nobody join a cluster that is ending, whoever uses it; False where it was closed."""
        return self._write(
            cluster_id,
            "SET #state = :closing, #tidy_after = :later",
            "#state = :open",
            values={"closing": {"S": CLOSING}, "open": {"S": OPEN}, "later": _later()},
        )

    def forget(self, shared: SharedCluster) -> None:
        """Take a closed cluster from its pool; its own item stays for those who still ask."""
        self.leave_out(shared.pool_id, shared.cluster_id)

    def leave_out(self, pool_id: str, cluster_id: str) -> None:
        """Take a cluster from a pool's item."""
        self._write(
            pool_id,
            "DELETE #clusters :ids",
            "attribute_exists(#clusters)",
            values={"ids": {"SS": [cluster_id]}},
        )

    def claim_founding(self, pool_id: str, read: Pool, user: str) -> bool:
        """Become the one who founds a pool's next cluster.

        :param read: the pool in which no cluster could be joined.
        :returns: False where somebody else founds one, or it has other clusters by now.
        """
        now = time.time()
        values = {
            "founding": {"M": {"user": {"S": user}, "expires": _number(now + FOUNDING_SECONDS)}},
            "later": _later(),
            "now": _number(now),
            "user": {"S": user},
        }
        unchanged = "attribute_not_exists(#clusters)"
        if read.cluster_ids:
            unchanged = "#clusters = :read"
            values["read"] = {"SS": list(read.cluster_ids)}
        return self._write(
            pool_id,
            "SET #founding = :founding, #tidy_after = :later",
            f"{unchanged} AND (attribute_not_exists(#founding) OR #founding.#expires <= :now"
            " OR #founding.#user = :user)",
            values=values,
        )

    def keep_founding(self, pool_id: str, user: str) -> bool:
        """Put off the time at which a founder is taken for dead; False where it has been."""
        return self._write(
            pool_id,
            "SET #founding.#expires = :expires",
            "#founding.#user = :user",
            values={"expires": _number(time.time() + FOUNDING_SECONDS), "user": {"S": user}},
        )

    def give_up_founding(self, pool_id: str, user: str) -> None:
        """Let others found at once."""
        self._write(
            pool_id,
            "REMOVE #founding",
            "#founding.#user = :user",
            values={"user": {"S": user}},
        )

    def register(self, pool_id: str, deployment: str, lease: Lease) -> None:
        """Put a founded cluster into its pool, with its founder as user, by one transaction.

        The lease on a cluster that is there already is renewed.

        :raises LeaseError: where its item is there by now and the lease is not in force.
        """
        while not self._register(pool_id, deployment, lease):
            if self.renew(lease):
                return
            shared = self.cluster(lease.cluster_id)
            if shared is None:
                continue
            raise LeaseError(
                f"Cluster {lease.cluster_id} was founded for {lease.user} and is {shared.state} "
                "without its lease: the retry takes or founds another."
            )

    def _register(self, pool_id: str, deployment: str, lease: Lease) -> bool:
        """Write both items; False where the cluster's is there, or the founder was another."""
        item = {
            "id": {"S": lease.cluster_id},
            "deployment": {"S": deployment},
            "pool": {"S": pool_id},
            "founded_at": _number(time.time()),
            "state": {"S": OPEN},
            "users": {"M": {lease.user: _stored_hold(lease)}},
            "tidy_after": _later(),
        }
        founding = self.pool(pool_id)
        # A founder that was taken for dead leaves its successor's claim alone.
        mine = founding.founder == lease.user
        update = {
            "Key": {"id": {"S": pool_id}},
            "UpdateExpression": "SET #tidy_after = :later ADD #clusters :ids"
            + (" REMOVE #founding" if mine else ""),
            "ConditionExpression": "#founding.#user = :user"
            if mine
            else "attribute_not_exists(#founding) OR #founding.#user <> :user",
            "ExpressionAttributeNames": {
                f"#{name}": name for name in ("tidy_after", "clusters", "founding", "user")
            },
            "ExpressionAttributeValues": {
                ":later": _later(),
                ":ids": {"SS": [lease.cluster_id]},
                ":user": {"S": lease.user},
            },
        }
        put = {"Item": item, "ConditionExpression": "attribute_not_exists(id)"}
        try:
            call_patiently(
                lambda: self.dynamodb.transact_write_items(
                    TransactItems=[
                        {"Put": {"TableName": self.name, **put}},
                        {"Update": {"TableName": self.name, **update}},
                    ]
                ),
                budget=self.budget,
                repeat=_is_passing,
            )
        except Exception as error:
            if "ConditionalCheckFailed" in _reasons(error):
                return False
            raise
        return True

    def _swap_users(self, read: SharedCluster, users: Mapping[str, Any], state: str) -> bool:
        """Write all users anew, provided that they are as they were read."""
        return self._write(
            read.cluster_id,
            "SET #users = :users, #state = :state, #tidy_after = :later",
            "#state = :open AND #users = :read",
            values={
                "users": {"M": dict(users)},
                "read": {"M": dict(read.stored_users)},
                "state": {"S": state},
                "open": {"S": OPEN},
                "later": _later(),
            },
        )

    def _item(self, item_id: str) -> dict[str, Any] | None:
        answer = self._call(self.dynamodb.get_item, Key={"id": {"S": item_id}}, ConsistentRead=True)
        found: dict[str, Any] | None = answer.get("Item")
        return found

    def _write(
        self,
        item_id: str,
        update: str,
        condition: str,
        *,
        values: Mapping[str, Any],
        names: Mapping[str, str] | None = None,
    ) -> bool:
        """Change an item where the condition holds.

        :param values: what the ``:names`` stand for.
        :param names: what a ``#name`` stands for that is not its own.
        """
        words = re.findall(r"#(\w+)", f"{update} {condition}")
        try:
            self._call(
                self.dynamodb.update_item,
                Key={"id": {"S": item_id}},
                UpdateExpression=update,
                ConditionExpression=condition,
                # Some of the names are words of DynamoDB's own, so each has a placeholder.
                ExpressionAttributeNames={
                    f"#{word}": (names or {}).get(word, word) for word in words
                },
                ExpressionAttributeValues={f":{key}": value for key, value in values.items()},
            )
        except Exception as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _call(self, call: Any, **request: Any) -> Any:
        return call_patiently(
            partial(call, TableName=self.name, **request), budget=self.budget, repeat=_is_passing
        )


def end_or_release(emr: Any, leases: LeaseTable | None, lease: Lease) -> bool:
    """Terminate a cluster that is the caller's alone; of a shared one give back the lease.

    Who gives back the last lease terminates the cluster, and so does who finds it closing: the
    one that closed it may have died.

    :param leases: None where no cluster is shared.
    :returns: whether the cluster was told to end.
    """
    shared = _release(emr, leases, lease) if leases else None
    if shared is not None and not shared.is_closing:
        log.info("Cluster %s goes on for %s others", lease.cluster_id, len(shared.users))
        return False
    terminate_cluster(emr, lease.cluster_id)
    if leases and shared is not None:
        try:
            leases.forget(shared)
        except Exception as error:
            log.warning("Cluster %s stays listed in its pool: %s", lease.cluster_id, error)
    return True


def _release(emr: Any, leases: LeaseTable, lease: Lease) -> SharedCluster | None:
    """Give back a lease; where others share the cluster, end the steps that would outlive it.

    An expired lease keeps a cluster on which somebody's steps go on: its run goes on, and only
    nobody was there to renew it.
    """
    read = leases.cluster(lease.cluster_id)
    if read is None or read.is_closing or not read.users.keys() - {lease.user}:
        return leases.release(lease)
    active = _active_steps(emr, lease.cluster_id)
    own = active & {*read.users[lease.user].steps} if read.holds(lease) else set()
    _cancel(emr, lease.cluster_id, own)
    return leases.release(lease, spare=bool(active - own))


def cancel_left_steps(emr: Any, cluster_id: str, step_ids: Iterable[str]) -> None:
    """Cancel what runs leave behind on a cluster that goes on; what EMR refuses is logged.

    :param step_ids: theirs; those that have ended stay as they are.
    :raises botocore.exceptions.ClientError: where EMR throttles or fails.
    """
    own = {*step_ids}
    if own:
        with _refusal_logged(cluster_id):
            _cancel(emr, cluster_id, own & _active_steps(emr, cluster_id))


@contextmanager
def _refusal_logged(cluster_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_passing(error):
            raise
        log.warning("Steps of cluster %s go on without their run: %s", cluster_id, error)


def _cancel(emr: Any, cluster_id: str, active: set[str]) -> None:
    if not active:
        return
    with _refusal_logged(cluster_id):
        for step_id, reason in cancel_steps(emr, cluster_id, sorted(active)).items():
            log.warning("EMR did not cancel step %s: %s", step_id, reason)


def _active_steps(emr: Any, cluster_id: str) -> set[str]:
    """Return the steps that wait or run; a cluster that EMR does not know has none."""
    pages = emr.get_paginator("list_steps").paginate(
        ClusterId=cluster_id, StepStates=sorted(STEP_ACTIVE)
    )
    try:
        return {step["Id"] for page in pages for step in page["Steps"]}
    except Exception as error:
        if is_unknown_id(error):
            return set()
        raise


def is_of_a_pool(emr: Any, cluster_id: str) -> bool:
    """Whether a cluster was founded to be shared; what EMR does not know was not.

    :raises botocore.exceptions.ClientError: where EMR does not say.
    """
    try:
        answer = call_patiently(
            lambda: emr.describe_cluster(ClusterId=cluster_id), budget=_READ_BUDGET
        )
    except Exception as error:
        if is_unknown_id(error):
            return False
        raise
    return TAG_POOL in {tag["Key"] for tag in answer["Cluster"].get("Tags", [])}


def _is_passing(error: BaseException) -> bool:
    """Whether DynamoDB may take the same request a moment later."""
    if error_code(error) in _CONFLICT_CODES:
        return True
    reasons = set(_reasons(error))
    if "ConditionalCheckFailed" in reasons:
        return False
    return bool(reasons & _CONFLICT_REASONS) or is_passing(error)


def _reasons(error: BaseException) -> Iterable[str]:
    """Return why a transaction was cancelled, a code for each of its writes."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return [reason.get("Code", "") for reason in response.get("CancellationReasons", [])]


def _hold(stored: Mapping[str, Mapping[str, Any]]) -> Hold:
    return Hold(
        use=stored["use"]["S"],
        expires=float(stored["expires"]["N"]),
        seconds=float(stored["seconds"]["N"]),
        steps=tuple(step["S"] for step in stored.get("steps", {"L": ()})["L"]),
    )


def _stored_hold(lease: Lease) -> dict[str, Any]:
    return {
        "M": {
            "use": {"S": lease.use},
            "expires": _number(time.time() + lease.seconds),
            "seconds": _number(lease.seconds),
        }
    }


def _later() -> dict[str, str]:
    return _number(time.time() + _KEPT_SECONDS)


def _number(value: float) -> dict[str, str]:
    return {"N": f"{value:.0f}"}
