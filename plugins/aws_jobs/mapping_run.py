"""What the tasks of the genomics DAGs do: check, claim, verify, and say what failed."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aws_jobs.airflow_states import airflow_run_state
from aws_jobs.exceptions import OutputError
from aws_jobs.mapping_checks import MappingChecks
from aws_jobs.mapping_clients import MappingClients
from aws_jobs.mapping_params import job_parameters
from aws_jobs.sample_claims import (
    THREADS,
    Claimant,
    SampleJobs,
    run_owner,
)
from aws_jobs.sample_outputs import (
    MANIFEST,
    output_problems,
    output_uri,
    read_manifest,
    stored_sizes,
)
from aws_jobs.samples import Status
from aws_jobs.settings import ARCHITECTURES, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aws_jobs.samples import Sample, SampleTable

log = logging.getLogger(__name__)


def preflight(params: Mapping[str, Any], *, aws_conn_id: str = "aws_default") -> dict[str, Any]:
    """Find everything that can be known to go wrong before a job is paid for.

    What is wrong with single samples is allowed for as many as ``max_failed``: they are refused,
    and the others go on.

    :returns: ``samples`` to map with their reads by name, ``finished`` ones with their manifests,
        ``refused`` ones with the reasons, and what is the same for all.
    :raises InputError: with every problem.
    """
    recompute = bool(params["recompute"])
    clients = MappingClients(aws_conn_id)
    return MappingChecks(params, [params["architecture"]], recompute, clients).run()


def preflight_benchmark(
    params: Mapping[str, Any], *, aws_conn_id: str = "aws_default"
) -> dict[str, Any]:
    """Do as ``preflight``, for a run that maps every sample on both architectures."""
    return MappingChecks(params, ARCHITECTURES, True, MappingClients(aws_conn_id)).run()


def claim(
    checked: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    owner: str,
    dag_run_state: Callable[[str, str], str | None] = airflow_run_state,
    aws_conn_id: str = "aws_default",
) -> list[list[dict[str, Any]]]:
    """Make the run the owner of its samples, and return what the jobs are to do.

    A sample that another run works on is left to it. To claim twice is to claim once.

    :param checked: what ``preflight`` returned.
    :param owner: this run, as ``owner_of`` names it.
    :param dag_run_state: how Airflow knows another run; None where it does not.
    :returns: an item for each claimed sample, ordered by name, ``samples_per_job`` to a chunk.
    """
    clients = MappingClients(aws_conn_id)
    settings = clients.settings
    table = clients.table(checked["table"])
    claimant = Claimant(
        table=table,
        jobs=SampleJobs(clients.batch, settings.deployment_id),
        owner=owner,
        arch=checked["arch"],
        run_state=dag_run_state,
        recompute=bool(params["recompute"]),
    )
    # What was finished stays so, even where it cannot be mapped again.
    for name in replace(claimant, recompute=False).claim(checked["refused"]).claimed:
        table.fail(name, owner, checked["refused"][name])
    claims = claimant.claim(checked["samples"])
    for name, why in claims.held.items():
        log.warning("%s is left out: %s", name, why)
    log.info(
        "%d samples claimed, %d finished meanwhile, %d held by others, %d refused",
        *(len(each) for each in (claims.claimed, claims.finished, claims.held, checked["refused"])),
    )
    items = [
        {
            **_work(checked, name, output_uri(settings.bucket, table.name, claimant.arch, name)),
            "table": table.name,
            "owner": owner,
        }
        for name in claims.claimed
    ]
    return _chunks(items, params["samples_per_job"])


def verify(
    checked: Mapping[str, Any],
    claimed: Iterable[Sequence[Mapping[str, Any]]],
    attempts: Iterable[Iterable[Mapping[str, Any]] | None],
    *,
    owner: str,
    aws_conn_id: str = "aws_default",
) -> dict[str, Any]:
    """Look which samples are complete in S3, and bring the table up to that.

    A job's own word is neither enough nor needed. What counts is a manifest, of this run's for what
    it claimed, and that everything which it names is there in its size.

    :param checked: what ``preflight`` returned.
    :param claimed: what ``claim`` returned.
    :param attempts: the records that each mapped task left, or None where one left none.
    :returns: manifests of this run's samples by name as ``complete``, reasons by name as
        ``failed``, and manifests of all that go into the matrix as ``all_complete``.
    """
    clients = MappingClients(aws_conn_id)
    table = clients.table(checked["table"])
    names = sorted({*checked["samples"], *checked["finished"], *checked["refused"]})
    verification = _Verification(
        s3=clients.s3,
        table=table,
        owner=owner,
        items={item["sample"]: item for chunk in claimed for item in chunk},
        records=_by_sample(attempts),
        refused=checked["refused"],
        samples=table.get(names),
    )
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = dict(zip(names, pool.map(verification.look, names), strict=True))
    complete = {name: each.done_uri for name, each in verdicts.items() if each.done_uri}
    failed = {name: each.reason for name, each in verdicts.items() if not each.done_uri}
    log.info("%d of %d samples are complete", len(complete), len(verdicts))
    for name, why in failed.items():
        log.warning("%s failed: %s", name, why)
    return {
        "table": table.name,
        "arch": checked["arch"],
        "complete": {name: complete[name] for name in verification.items if name in complete},
        "failed": failed,
        "all_complete": complete,
    }


def matrix_items(
    verified: Mapping[str, Any], params: Mapping[str, Any], *, owner: str
) -> list[dict[str, Any]]:
    """Return what the merging job is to do, at a place of the run's own.

    :param verified: what ``verify`` returned.
    :returns: one item; none where there is no sample to merge.
    """
    if not verified["all_complete"]:
        return []
    results = f"s3://{load_settings().bucket}/results/{verified['table']}/{verified['arch']}"
    output = f"{results}/matrix/{run_digest(owner)}"
    item = {
        "samples": [
            {"sample": name, "done_uri": uri}
            for name, uri in sorted(verified["all_complete"].items())
        ],
        "failed": dict(verified["failed"]),
        "output": output,
        "done_uri": f"{output}/{MANIFEST}",
        "methods": job_parameters(params)["methods"],
    }
    return [item]


def judge(verified: Mapping[str, Any], max_failed: int) -> None:
    """Fail the run where more samples failed than it allows.

    :raises OutputError: naming each failed sample and why.
    """
    failed = verified["failed"]
    if len(failed) <= max_failed:
        return
    total = len(failed) + len(verified["all_complete"])
    raise OutputError(
        f"{len(failed)} of {total} samples failed, and {max_failed} may",
        [f"{name}: {why}" for name, why in sorted(failed.items())],
    )


def publish(
    verified: Mapping[str, Any], items: Sequence[Mapping[str, Any]], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Say where the matrix of a run is that passes.

    :param items: what ``matrix_items`` returned.
    :raises OutputError: where more samples failed than the run allows, naming each and why; or
        where none is complete.
    """
    judge(verified, params["max_failed"])
    if not items:
        raise OutputError("There is no matrix", ["not one sample is complete"])
    return {
        "table": verified["table"],
        "architecture": verified["arch"],
        "matrix": items[0]["output"],
        "samples": len(verified["all_complete"]),
        "failed": len(verified["failed"]),
    }


def benchmark_items(
    checked: Mapping[str, Any], params: Mapping[str, Any], arch: str, *, owner: str
) -> list[list[dict[str, Any]]]:
    """Return what one side of a benchmark is to do: away from the results, and from the table.

    :param checked: what ``preflight_benchmark`` returned.
    :param owner: the run, whose digest is part of the place.
    """
    place = f"s3://{load_settings().bucket}/benchmarks/{checked['table']}/{run_digest(owner)}"
    items = [
        {**_work(checked, name, f"{place}/{arch}/{name}"), "table": None, "owner": None}
        for name in checked["samples"]
    ]
    return _chunks(items, params["samples_per_job"])


def owner_of(ti: Any) -> str:
    """Return the name of a task instance's run as samples' owner."""
    return run_owner(load_settings().deployment_id, ti.dag_id, ti.run_id)


def run_digest(owner: str) -> str:
    """Return 16 hexadecimal digits for a run, which are safe in a key."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Verdict:
    """What became of a sample: the manifest of its outputs, or why there is none."""

    done_uri: str = ""
    reason: str = ""


@dataclass(frozen=True)
class _Verification:
    s3: Any
    table: SampleTable
    owner: str
    items: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    refused: Mapping[str, str]
    samples: Mapping[str, Sample]

    def look(self, name: str) -> _Verdict:
        """Say what became of a sample."""
        sample = self.samples.get(name)
        if name in self.refused:
            return _Verdict(reason=self.refused[name])
        if sample is None:
            return _Verdict(reason="it is not in the table any more")
        if name in self.items:
            return self._look_at_claimed(sample, self.items[name], self.records.get(name, ()))
        if not sample.is_finished:
            return _Verdict(reason=f"{sample.owner or 'nobody'} has it: {sample.status_words}")
        if problems := self._problems(sample.outputs or ""):
            return _Verdict(reason=f"it was finished, but: {'; '.join(problems)}")
        return _Verdict(done_uri=sample.outputs or "")

    def _look_at_claimed(
        self,
        sample: Sample,
        item: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
    ) -> _Verdict:
        uri = item["done_uri"]
        manifest = read_manifest(self.s3, uri)
        problems: list[str] = []
        if manifest is not None and self._is_of_this_run(manifest, sample, records):
            problems = output_problems(manifest, stored_sizes(self.s3, item["output"]))
            if not problems:
                if not (sample.is_finished and sample.outputs == uri):
                    self.table.finish(sample.name, self.owner, uri)
                return _Verdict(done_uri=uri)
        reason = "; ".join(problems) or self._why(sample, records)
        if sample.owner == self.owner and not _says(sample, reason):
            self.table.fail_as_read(sample, reason)
        return _Verdict(reason=reason)

    def _is_of_this_run(
        self,
        manifest: Mapping[str, Any],
        sample: Sample,
        records: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Whether a manifest is no earlier run's, which would lie at the same place."""
        if manifest.get("job_id") in [record["job_id"] for record in records]:
            return True
        created, claimed = manifest.get("created_at"), sample.claimed_at
        if not created or not claimed or sample.owner != self.owner:
            return False
        return datetime.fromisoformat(created) >= datetime.fromisoformat(claimed)

    def _why(self, sample: Sample, records: Sequence[Mapping[str, Any]]) -> str:
        """Return the reason of the last attempt, in the job's own words where it left some."""
        if sample.owner != self.owner:
            return f"{sample.owner or 'nobody'} has it now"
        told = sample.reason if sample.status == Status.FAILED else None
        if not records:
            return told or "no job was started for it"
        last = records[-1]
        if told and sample.job_id == last["job_id"]:
            return told
        if last["outcome"] == "succeeded":
            return f"job {last['job_id']} succeeded, but left no manifest"
        tries = f" (attempt {len(records)})" if len(records) > 1 else ""
        return f"{last['failure']}: {last['reason']}{tries}"

    def _problems(self, done_uri: str) -> list[str]:
        manifest = read_manifest(self.s3, done_uri) if done_uri else None
        if manifest is None:
            return [f"its manifest is gone: {done_uri}"]
        return output_problems(manifest, stored_sizes(self.s3, done_uri.rsplit("/", 1)[0]))


def _says(sample: Sample, reason: str) -> bool:
    return sample.status == Status.FAILED and sample.reason == reason


def _work(checked: Mapping[str, Any], name: str, output: str) -> dict[str, Any]:
    """Return what the job of a sample is to do, but for whom."""
    return {
        "sample": name,
        **checked["samples"][name],
        "reference": checked["reference"],
        "output": output,
        "done_uri": f"{output}/{MANIFEST}",
        "parameters": checked["parameters"],
    }


def _chunks(items: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _by_sample(
    attempts: Iterable[Iterable[Mapping[str, Any]] | None],
) -> dict[str, list[Mapping[str, Any]]]:
    records: dict[str, list[Mapping[str, Any]]] = {}
    for of_a_task in attempts:
        for record in of_a_task or ():
            records.setdefault(record["sample"], []).append(record)
    return records
