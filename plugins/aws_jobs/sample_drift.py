"""Where the sample table, Batch and S3 contradict each other, and what brings them together."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_jobs.aws_errors import call_patiently, error_code
from aws_jobs.batch_job import JOB_ACTIVE, JOB_ENDED
from aws_jobs.s3_uri import split_uri
from aws_jobs.sample_claims import THREADS, SampleJobs, is_live
from aws_jobs.sample_outputs import (
    MANIFEST,
    output_problems,
    output_uri,
    read_manifest,
    stored_sizes,
)
from aws_jobs.samples import Sample, SampleTable, Status
from aws_jobs.settings import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

# How long after a job's end its run has to say so, or to submit the next attempt.
SETTLED_AFTER = timedelta(minutes=10)
# How long a claimed sample's job may wait in Airflow before anybody wonders.
STALE_AFTER = timedelta(hours=24)

_BUDGET = 120.0
_UNDER_WAY = (Status.STARTED, Status.MAPPED, Status.BAM_STORED)


@dataclass(frozen=True)
class Drift:
    """One contradiction.

    :param kind: ``done without output``, ``output without done``, ``live job of a failed sample``,
        ``dead job``, ``orphan job``, ``stale claim`` or ``unknown status``.
    :param remedy: what the repair does, or what is left to a person.
    :param repair: does it, and says whether it still applied; None where it is not safe.
    """

    kind: str
    sample: str
    text: str
    remedy: str
    repair: Callable[[], bool] | None = None


@dataclass(frozen=True)
class LiveJob:
    """A job that goes on, or a part of an array job, and the item that it works on."""

    job: Mapping[str, Any]
    item: Mapping[str, Any]


@dataclass
class Reconciliation:
    """Compares all samples of a table with their jobs and their outputs.

    :param queues: where jobs may be that no sample names.
    :param settled_after: how long ago a job must have ended before its end counts.
    """

    table: SampleTable
    s3: Any
    jobs: SampleJobs
    queues: Sequence[str]
    settled_after: timedelta = SETTLED_AFTER
    _sizes: dict[str, int] = field(default_factory=dict)

    def find(self) -> list[Drift]:
        """Look everywhere once, and return what does not agree, ordered by sample."""
        # Jobs first: what ends while the table is read was a job's, not a contradiction.
        live = list(live_jobs(self.jobs, self.s3, self.queues))
        samples = {sample.name: sample for sample in self.table.all()}
        known = self.jobs.describe(sample.job_id for sample in samples.values())
        self._sizes = stored_sizes(self.s3, f"s3://{self.table.bucket}/results/{self.table.name}")
        at_work = {each.item["sample"] for each in live if self._is_at_work(each, samples)}
        with ThreadPoolExecutor(THREADS) as pool:
            looks = pool.map(lambda sample: self._look(sample, known, at_work), samples.values())
            found = [drift for drift in looks if drift]
        found += [drift for each in live if (drift := self._orphan(each, samples))]
        return sorted(found, key=lambda drift: (drift.sample, drift.kind))

    def _look(
        self, sample: Sample, known: Mapping[str, Mapping[str, Any]], at_work: set[str]
    ) -> Drift | None:
        job = known.get(sample.job_id or "")
        if sample.status not in list(Status):
            return Drift(
                "unknown status",
                sample.name,
                f"it has {sample.status_words}, so no run sees it",
                "put it back to the beginning",
                lambda: self.table.reset(sample),
            )
        if sample.is_finished:
            return self._without_output(sample)
        if is_live(job):
            return self._live_but_failed(sample, job or {})
        if sample.name in at_work:
            return None
        if uri := self._complete_output(sample):
            return Drift(
                "output without done",
                sample.name,
                f"it is {sample.status_words}, but {uri} is complete",
                "note that it is finished",
                lambda: self.table.finish_as_read(sample, uri),
            )
        if sample.status in _UNDER_WAY and self._is_settled(job):
            return self._dead_job(sample, job)
        if sample.status == Status.TO_DO and sample.owner and is_past(sample.claimed_at):
            return Drift(
                "stale claim",
                sample.name,
                f"{sample.owner} claimed it at {sample.claimed_at}, and no job goes on",
                "a run takes it over when that one has ended; or reset it",
            )
        return None

    def _without_output(self, sample: Sample) -> Drift | None:
        uri = sample.outputs or ""
        manifest = read_manifest(self.s3, uri) if uri else None
        problems = self._problems(uri, manifest) if manifest else [f"no manifest: {uri or 'none'}"]
        if not problems:
            return None
        return Drift(
            "done without output",
            sample.name,
            f"it is finished, but {'; '.join(problems)}",
            "put it back to the beginning",
            lambda: self.table.reset(sample),
        )

    def _live_but_failed(self, sample: Sample, job: Mapping[str, Any]) -> Drift | None:
        if sample.status != Status.FAILED or _tries_again(sample, job):
            return None
        return self._job_drift(
            "live job of a failed sample",
            sample.name,
            job,
            f"it failed ({sample.reason}), but job {job['jobId']} is {job['status']}",
        )

    def _dead_job(self, sample: Sample, job: Mapping[str, Any] | None) -> Drift:
        ended = (
            f"job {sample.job_id} is {job['status']} ({job.get('statusReason') or 'no reason'})"
            if job
            else f"job {sample.job_id or 'without an id'} is unknown to Batch"
        )
        return Drift(
            "dead job",
            sample.name,
            f"it is {sample.status_words}, but {ended}",
            "note that it failed",
            lambda: self.table.fail_as_read(sample, ended),
        )

    def _orphan(self, live: LiveJob, samples: Mapping[str, Sample]) -> Drift | None:
        """Return a job that works for a run which does not own the sample."""
        item = live.item
        if item.get("table") != self.table.name:
            return None
        sample = samples.get(item["sample"])
        if sample and sample.owner == item["owner"]:
            return None
        owner = (sample.owner or "nobody") if sample else "nobody: it is not in the table"
        return self._job_drift(
            "orphan job",
            item["sample"],
            live.job,
            f"job {live.job['jobId']} maps it for {item['owner']}, but it is owned by {owner}",
        )

    def _job_drift(self, kind: str, name: str, job: Mapping[str, Any], text: str) -> Drift:
        job_id = job["jobId"]
        if not self.jobs.is_ours(job):
            return Drift(kind, name, text, "the job is not this deployment's: see who started it")

        def end() -> bool:
            self.jobs.terminate(job_id, f"{kind}: {name}")
            return True

        return Drift(kind, name, text, "end the job", end)

    def _is_at_work(self, live: LiveJob, samples: Mapping[str, Sample]) -> bool:
        sample = samples.get(live.item["sample"])
        return (
            live.item.get("table") == self.table.name
            and sample is not None
            and sample.owner == live.item["owner"]
        )

    def _complete_output(self, sample: Sample) -> str | None:
        """Return a manifest that was written since the table last heard of the sample's run."""
        for arch in ARCHITECTURES:
            place = output_uri(self.table.bucket, self.table.name, arch, sample.name)
            uri = f"{place}/{MANIFEST}"
            if uri not in self._sizes:
                continue
            manifest = read_manifest(self.s3, uri)
            since = sample.claimed_at if sample.owner else sample.updated_at
            if not manifest or not since or not manifest.get("created_at"):
                continue
            if _time(manifest["created_at"]) < _time(since):
                continue
            if not self._problems(uri, manifest):
                return uri
        return None

    def _problems(self, done_uri: str, manifest: Mapping[str, Any]) -> list[str]:
        place = done_uri.rsplit("/", 1)[0]
        sizes = self._sizes if done_uri in self._sizes else stored_sizes(self.s3, place)
        return output_problems(manifest, sizes)

    def _is_settled(self, job: Mapping[str, Any] | None) -> bool:
        """Whether a job ended so long ago that nobody will say more of it."""
        if job is None:
            return True
        stopped = job.get("stoppedAt") or job.get("createdAt") or 0
        ended = datetime.fromtimestamp(stopped / 1000, UTC)
        return job["status"] in JOB_ENDED and datetime.now(UTC) - ended >= self.settled_after


def live_jobs(jobs: SampleJobs, s3: Any, queues: Iterable[str]) -> Iterator[LiveJob]:
    """Find what goes on in queues for our deployment, each with its line of its manifest."""
    ids = [
        summary["jobId"]
        for queue in queues
        for summary in _summaries(jobs.batch, {"jobQueue": queue})
        if ":" not in summary["jobId"]
    ]
    manifests: dict[str, list[Mapping[str, Any]]] = {}
    for job in jobs.describe(ids).values():
        given = (job.get("parameters") or {}).get("manifest")
        if not given or not is_live(job) or not jobs.is_ours(job):
            continue
        if given not in manifests:
            manifests[given] = _items(s3, given)
        for job_id, index in _parts(jobs.batch, job):
            if index < len(manifests[given]) and "sample" in manifests[given][index]:
                yield LiveJob({**job, "jobId": job_id}, manifests[given][index])


def _parts(batch: Any, job: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the live parts of a job, with the lines that they work on."""
    if not (job.get("arrayProperties") or {}).get("size"):
        return [(job["jobId"], 0)]
    children = _summaries(batch, {"arrayJobId": job["jobId"]})
    return [(child["jobId"], int(child["arrayProperties"]["index"])) for child in children]


def _summaries(batch: Any, where: Mapping[str, str]) -> list[dict[str, Any]]:
    """List what goes on; ListJobs takes one state at a time."""
    paginator = batch.get_paginator("list_jobs")
    found: dict[str, dict[str, Any]] = {}
    for state in sorted(JOB_ACTIVE):
        pages = paginator.paginate(**where, jobStatus=state)
        listed = call_patiently(partial(_listed, pages), budget=_BUDGET)
        found |= {summary["jobId"]: summary for summary in listed}
    return list(found.values())


def _listed(pages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [summary for page in pages for summary in page["jobSummaryList"]]


def _items(s3: Any, given: str) -> list[Mapping[str, Any]]:
    """Read a manifest of items, one that is gone has none; or the one item that was handed over."""
    if given.startswith("{"):
        return [json.loads(given)]
    bucket, key = split_uri(given)
    try:
        answer = call_patiently(partial(s3.get_object, Bucket=bucket, Key=key), budget=_BUDGET)
    except Exception as error:
        if error_code(error) in ("NoSuchKey", "NoSuchBucket"):
            return []
        raise
    return [json.loads(line) for line in answer["Body"].read().splitlines() if line.strip()]


def _tries_again(sample: Sample, job: Mapping[str, Any]) -> bool:
    """Whether Batch itself repeats a job whose attempt before has noted that it failed."""
    if job["status"] != "RUNNING":
        return bool(job.get("attempts"))
    started = datetime.fromtimestamp((job.get("startedAt") or 0) / 1000, UTC)
    return bool(sample.finished_at) and started > _time(sample.finished_at or "")


def is_past(claimed_at: str | None) -> bool:
    """Whether a claim is so old that its job should have started."""
    return not claimed_at or datetime.now(UTC) - _time(claimed_at) >= STALE_AFTER


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
