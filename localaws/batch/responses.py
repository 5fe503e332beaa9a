"""Batch's HTTP operations: take members, call the backend, answer in the API's shape.

Answers are written as JSON here and not by moto's serializer: DescribeJobs of 100 jobs is what
everybody asks all the time.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from moto.batch.models import batch_backends
from moto.core.responses import BaseResponse
from moto.core.utils import get_service_model

from localaws.batch.backend import LocalBatchBackend
from localaws.batch.errors import ClientException
from localaws.batch.filters import filtered
from localaws.batch.models import Json, now
from localaws.batch.states import (
    LISTED_BY_FILTER,
    LISTED_BY_STATUS,
    MAX_BULK,
    MAX_DESCRIBED,
    MAX_SNAPSHOT,
    PAGE,
    RUNNING,
)
from localaws.batch.validation import check_number
from localaws.server import LISTING_LAG

_TAGS = "/v1/tags/"
_MODEL = get_service_model("batch")
_HTTP = {name: _MODEL.operation_model(name).http for name in _MODEL.operation_names}
#: Operations by method and path.
_OPERATIONS = {(http["method"], http["requestUri"]): name for name, http in _HTTP.items()}
#: moto's url_paths: all that Batch has, so that what is not here is answered 501.
PATHS = (
    *("{0}" + uri + "$" for _, uri in _OPERATIONS if not uri.startswith(_TAGS)),
    "{0}" + _TAGS + "(?P<arn_1>[^/]+)/(?P<arn_2>[^/]+)$",
    "{0}" + _TAGS + "(?P<arn>[^/]+)$",
)


class LocalBatchResponse(BaseResponse):
    """moto calls the method that is named as the operation, in snake case."""

    def __init__(self) -> None:
        super().__init__(service_name="batch")

    def _get_action(self) -> str:
        path = self.parsed_url.path
        return _OPERATIONS[self.method, _TAGS + "{resourceArn}" if path.startswith(_TAGS) else path]

    @property
    def local(self) -> LocalBatchBackend:
        """The backend of the caller's account and region."""
        backend = batch_backends[self.current_account][self.region]
        if not isinstance(backend, LocalBatchBackend):
            raise TypeError(f"Batch of {self.region} is moto's own")
        return backend

    @property
    def members(self) -> Json:
        """The request's members."""
        members: Json = json.loads(self.body or "{}")
        return members

    def create_compute_environment(self) -> str:
        """Make a compute environment."""
        made = self.local.create_environment(self.members)
        return _environment(made.name, made.arn)

    def update_compute_environment(self) -> str:
        """Change a compute environment."""
        changed = self.local.update_environment(self.members)
        return _environment(changed.name, changed.arn)

    def delete_compute_environment(self) -> str:
        """Remove a compute environment."""
        self.local.delete_environment(self.members["computeEnvironment"])
        return "{}"

    def describe_compute_environments(self) -> str:
        """Describe some or all compute environments."""
        members = self.members
        found = _asked(self.local.environments.values(), members.get("computeEnvironments"))
        return _page("computeEnvironments", found, members, lambda one: one.as_api())

    def create_job_queue(self) -> str:
        """Make a job queue."""
        made = self.local.create_queue(self.members)
        return json.dumps({"jobQueueName": made.name, "jobQueueArn": made.arn})

    def update_job_queue(self) -> str:
        """Change a job queue."""
        changed = self.local.update_queue(self.members)
        return json.dumps({"jobQueueName": changed.name, "jobQueueArn": changed.arn})

    def delete_job_queue(self) -> str:
        """Remove a job queue."""
        self.local.delete_queue(self.members["jobQueue"])
        return "{}"

    def describe_job_queues(self) -> str:
        """Describe some or all job queues."""
        members = self.members
        found = _asked(self.local.queues.values(), members.get("jobQueues"))
        return _page("jobQueues", found, members, lambda one: one.as_api())

    def get_job_queue_snapshot(self) -> str:
        """Return the first jobs that wait in a queue."""
        jobs = self.local.snapshot(self.local.queue(self.members["jobQueue"]))
        front = [
            {"jobArn": job.arn, "earliestTimeAtPosition": job.created}
            for job in jobs[:MAX_SNAPSHOT]
        ]
        return json.dumps({"frontOfQueue": {"jobs": front, "lastUpdatedAt": now()}})

    def register_job_definition(self) -> str:
        """Make the next revision of a job definition."""
        made = self.local.register_definition(self.members)
        return json.dumps(
            {
                "jobDefinitionName": made.name,
                "jobDefinitionArn": made.arn,
                "revision": made.revision,
            }
        )

    def deregister_job_definition(self) -> str:
        """Make a revision of a job definition INACTIVE."""
        self.local.deregister_definition(self.members["jobDefinition"])
        return "{}"

    def describe_job_definitions(self) -> str:
        """Describe some job definitions, or all of a name or a status."""
        members = self.members
        found = self.local.listed_definitions(
            members.get("jobDefinitions") or [],
            members.get("jobDefinitionName"),
            members.get("status"),
        )
        return _page("jobDefinitions", found, members, lambda one: one.as_api())

    def submit_job(self) -> str:
        """Take a job."""
        job = self.local.submit(self.members)
        return json.dumps({"jobArn": job.arn, "jobName": job.name, "jobId": job.id})

    def describe_jobs(self) -> str:
        """Describe jobs; those that are not known are left out."""
        ids = self.members.get("jobs") or []
        check_number(ids, MAX_DESCRIBED, "job ids")
        jobs = self.local.described(ids, self._lag)
        return json.dumps({"jobs": [job.as_api() for job in jobs]})

    def list_jobs(self) -> str:
        """List the jobs of a queue or of an array, in a status (RUNNING) or by a filter."""
        members = self.members
        queue, array = members.get("jobQueue"), members.get("arrayJobId")
        if bool(queue) == bool(array):
            raise ClientException("Exactly one of jobQueue and arrayJobId must be given.")
        found = self.local.listed(
            self.local.queue(queue) if queue else None, array or "", self._lag
        )
        filters = members.get("filters")
        if filters and queue:
            found, most = filtered(found, filters), LISTED_BY_FILTER
        else:
            # a filter does not apply to the children of an array
            status = members.get("jobStatus") or RUNNING
            found, most = [job for job in found if job.state == status], LISTED_BY_STATUS
        # jobs that change their status between two pages shift nothing
        keys = [-job.number if queue else int(job.index or 0) for job in found]
        return _page("jobSummaryList", found, members, lambda job: job.listed(), most, keys)

    def cancel_job(self) -> str:
        """Cancel a job that has not started."""
        return self._end_one(self.local.cancel)

    def terminate_job(self) -> str:
        """End a job."""
        return self._end_one(self.local.terminate)

    def cancel_jobs(self) -> str:
        """Cancel up to 50 jobs."""
        return self._end_many(self.local.cancel)

    def terminate_jobs(self) -> str:
        """End up to 50 jobs."""
        return self._end_many(self.local.terminate)

    def tag_resource(self) -> str:
        """Add tags to a resource."""
        self.local.tag(self._arn, self.members.get("tags") or {})
        return "{}"

    def untag_resource(self) -> str:
        """Remove tags from a resource."""
        self.local.untag(self._arn, self.normalized_request.args.getlist("tagKeys"))
        return "{}"

    def list_tags_for_resource(self) -> str:
        """Return the tags of a resource."""
        return json.dumps({"tags": self.local.tags_of(self._arn)})

    @property
    def _arn(self) -> str:
        return unquote(self.parsed_url.path.removeprefix(_TAGS))

    @property
    def _lag(self) -> float:
        return float(self.normalized_request.environ.get(LISTING_LAG, 0.0))

    def _end_one(self, end: Callable[[str, str], None]) -> str:
        members = self.members
        end(members["jobId"], _reason(members))
        return "{}"

    def _end_many(self, end: Callable[[str, str], None]) -> str:
        members = self.members
        check_number(members["jobs"], MAX_BULK, "job ids")
        for job_id in members["jobs"]:
            end(job_id, _reason(members))
        return json.dumps({"successful": members["jobs"], "errors": []})


def _environment(name: str, arn: str) -> str:
    return json.dumps({"computeEnvironmentName": name, "computeEnvironmentArn": arn})


def _reason(members: Json) -> str:
    reason = str(members.get("reason") or "")
    if not reason:
        raise ClientException("A reason must be given.")
    return reason


def _asked(known: Iterable[Any], names: Sequence[str] | None) -> list[Any]:
    return [one for one in known if not names or one.name in names or one.arn in names]


def _page(
    key: str,
    items: Sequence[Any],
    members: Json,
    shape: Callable[[Any], Json],
    most: int = PAGE,
    keys: Sequence[int] | None = None,
) -> str:
    """Cut a page; the token names the place of the last item given, by ascending ``keys``."""
    placed = list(zip(keys or range(len(items)), items, strict=True))
    token = members.get("nextToken")
    if token:
        last = _decode(token)
        placed = [(place, item) for place, item in placed if place > last]
    limit = min(most, members.get("maxResults") or most)
    answer: Json = {key: [shape(item) for _, item in placed[:limit]]}
    if len(placed) > limit:
        answer["nextToken"] = base64.b64encode(str(placed[limit - 1][0]).encode()).decode()
    return json.dumps(answer)


def _decode(token: str) -> int:
    try:
        return int(base64.b64decode(token, validate=True))
    except (binascii.Error, ValueError):
        raise ClientException("The nextToken is not valid.") from None
