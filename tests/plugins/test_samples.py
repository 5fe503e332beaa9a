"""The sample table: no two owners, and whoever was overtaken changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aws_jobs.identity import TAG_DEPLOYMENT
from aws_jobs.sample_claims import Claimant, Claims, SampleJobs
from aws_jobs.samples import SampleTable, Status
from localaws.process import LocalAws
from tests.plugins.sample_tables import add, make_table, read

ME, OTHER = "local/genomics_mapping/me", "local/genomics_mapping/other"


@pytest.fixture
def table(aws: LocalAws) -> SampleTable:
    return make_table(aws)


class Jobs:
    """The two calls of Batch that claims make."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.tags = {TAG_DEPLOYMENT: "local"}
        self.calls: list[int] = []
        self.terminated: list[str] = []

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        self.calls.append(len(jobs))
        known = [
            {"jobId": job, "status": self.states[job], "tags": self.tags if ":" not in job else {}}
            for job in jobs
            if job in self.states
        ]
        return {"jobs": known}

    def terminate_job(self, jobId: str, reason: str) -> None:
        self.terminated.append(jobId)


def claim(
    table: SampleTable,
    *names: str,
    owner: str = ME,
    runs: Mapping[str, str | None] | None = None,
    jobs: Jobs | None = None,
    recompute: bool = False,
) -> Claims:
    states = runs or {}
    return Claimant(
        table=table,
        jobs=SampleJobs(jobs or Jobs(), "local"),
        owner=owner,
        arch="graviton",
        run_state=lambda dag_id, run_id: states.get(run_id, "running"),
        recompute=recompute,
    ).claim(names)


def test_a_new_sample_is_to_do_and_is_registered_once(table: SampleTable) -> None:
    assert table.register("S1", "source/S1_1.fastq.gz", "s3://else/S1_2.fastq.gz")
    assert not table.register("S1", "other", "other")

    sample = read(table, "S1")

    assert sample.status == Status.TO_DO
    assert sample.r1 == "s3://localaws-data/source/S1_1.fastq.gz"
    assert sample.r2 == "s3://else/S1_2.fastq.gz"


def test_a_selection_is_a_query_for_each_status_and_no_scan(
    aws: LocalAws, table: SampleTable
) -> None:
    for name, status in (("S1", 0), ("S2", 4), ("S10", -1), ("T1", 1)):
        add(table, name, status=status)
    aws.reset_calls()

    found, unmatched = table.select(["S*", "T1", "X*", "X1"])

    assert list(found) == ["S1", "S10", "S2", "T1"]
    assert unmatched == ["X1", "X*"]
    calls = aws.calls()["dynamodb"]
    assert sum(calls["Query"].values()) == len(Status)
    assert "Scan" not in calls


def test_names_alone_are_read_without_the_index(aws: LocalAws, table: SampleTable) -> None:
    add(table, "S1")
    aws.reset_calls()

    found, _ = table.select(["S1"])

    assert list(found) == ["S1"]
    assert set(aws.calls()["dynamodb"]) == {"BatchGetItem"}


def test_every_page_is_read(table: SampleTable, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        add(table, f"S{number}")
    query = table.dynamodb.query
    monkeypatch.setattr(table.dynamodb, "query", lambda **request: query(Limit=2, **request))

    assert [sample.name for sample in table.with_status(0)] == [f"S{n}" for n in range(5)]


def test_what_a_batch_left_out_is_asked_for_again(
    table: SampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        add(table, f"S{number}")
    ask = table.dynamodb.batch_get_item

    def one_at_a_time(RequestItems: dict[str, Any]) -> dict[str, Any]:
        request = RequestItems[table.name]
        answer = ask(RequestItems={table.name: {**request, "Keys": request["Keys"][:1]}})
        left = {table.name: {**request, "Keys": request["Keys"][1:]}} if request["Keys"][1:] else {}
        return {**answer, "UnprocessedKeys": left}

    monkeypatch.setattr(table.dynamodb, "batch_get_item", one_at_a_time)

    assert sorted(table.get(["S0", "S1", "S2"])) == ["S0", "S1", "S2"]


def test_a_throttled_table_is_waited_for(aws: LocalAws, table: SampleTable) -> None:
    add(table, "S1")
    aws.set_faults(
        [{"service": "dynamodb", "operation": "UpdateItem", "kind": "throttle", "count": 2}]
    )

    assert claim(table, "S1").claimed == ["S1"]


def test_a_lost_answer_to_a_claim_leaves_the_sample_claimed(
    aws: LocalAws, table: SampleTable
) -> None:
    add(table, "S1")
    aws.set_faults(
        [{"service": "dynamodb", "operation": "UpdateItem", "kind": "lost_answer", "count": 1}]
    )

    assert claim(table, "S1").claimed == ["S1"]


def test_a_claim_forgets_the_attempts_before(table: SampleTable) -> None:
    add(
        table,
        "S1",
        status=-1,
        attempt=2,
        attempt_key="0001.0000.01",
        reason="why",
        job_id="j-1",
        finished_at="2026-01-01T00:00:00Z",
    )

    assert claim(table, "S1").claimed == ["S1"]

    sample = read(table, "S1")
    assert (sample.status, sample.owner, sample.arch) == (Status.TO_DO, ME, "graviton")
    assert sample.attempt == 2
    forgotten = (sample.attempt_key, sample.reason, sample.job_id, sample.finished_at)
    assert forgotten == (None, None, None, None)


def test_to_claim_twice_is_to_claim_once(table: SampleTable) -> None:
    add(table, "S1")

    assert claim(table, "S1").claimed == claim(table, "S1").claimed == ["S1"]


def test_of_eight_rivals_exactly_one_gets_each_sample(table: SampleTable) -> None:
    names = [f"S{number:02}" for number in range(12)]
    for name in names:
        add(table, name)

    with ThreadPoolExecutor(8) as pool:
        rivals = list(pool.map(lambda n: claim(table, *names, owner=f"local/dag/run{n}"), range(8)))

    assert sorted(name for each in rivals for name in each.claimed) == names
    for number, each in enumerate(rivals):
        assert all(read(table, name).owner == f"local/dag/run{number}" for name in each.claimed)
        assert sorted([*each.claimed, *each.held]) == names


def test_a_finished_sample_is_left_alone(table: SampleTable) -> None:
    before = add(table, "S1", status=4, owner=OTHER, outputs="s3://b/manifest.json")

    claims = claim(table, "S1", runs={"other": "success"})

    assert (claims.claimed, claims.finished) == ([], ["S1"])
    assert read(table, "S1") == before


def test_recompute_takes_what_other_runs_finished_and_not_what_this_one_did(
    table: SampleTable,
) -> None:
    add(table, "S1", status=4, owner=OTHER)
    add(table, "S2", status=4)
    add(table, "S3", status=4, owner=ME)

    claims = claim(table, "S1", "S2", "S3", runs={"other": "success"}, recompute=True)

    assert (claims.claimed, claims.finished) == (["S1", "S2"], ["S3"])


@pytest.mark.parametrize("state", ["running", "queued"])
def test_a_sample_of_a_run_that_goes_on_is_left_to_it(table: SampleTable, state: str) -> None:
    add(table, "S1", owner=OTHER)

    claims = claim(table, "S1", runs={"other": state})

    assert claims.claimed == []
    assert "local/genomics_mapping/other has it" in claims.held["S1"]
    assert state in claims.held["S1"]
    assert read(table, "S1").owner == OTHER


@pytest.mark.parametrize("state", ["success", "failed", None])
def test_a_sample_of_a_run_that_is_over_is_taken(table: SampleTable, state: str | None) -> None:
    add(table, "S1", status=1, owner=OTHER, job_id="gone")

    assert claim(table, "S1", runs={"other": state}).claimed == ["S1"]


@pytest.mark.parametrize(
    ("jobs", "is_taken"),
    [
        (Jobs(j="SUCCEEDED"), True),
        (Jobs(j="FAILED"), True),
        (Jobs(), False),
        (Jobs(j="RUNNING"), False),
        (Jobs(j="RUNNABLE"), False),
    ],
)
def test_a_sample_whose_job_is_over_is_taken_from_a_run_that_goes_on(
    table: SampleTable, jobs: Jobs, is_taken: bool
) -> None:
    add(table, "S1", status=1, owner=OTHER, job_id="j")

    claims = claim(table, "S1", jobs=jobs)

    assert claims.claimed == (["S1"] if is_taken else [])
    assert jobs.terminated == []


def test_a_job_that_is_left_of_a_dead_run_is_ended(table: SampleTable) -> None:
    add(table, "S1", status=1, owner=OTHER, job_id="j")
    add(table, "S2", status=1, owner=OTHER, job_id="a:7")
    jobs = Jobs(**{"j": "RUNNING", "a:7": "RUNNING", "a": "PENDING"})

    claims = claim(table, "S1", "S2", runs={"other": "failed"}, jobs=jobs)

    assert claims.claimed == ["S1", "S2"]
    assert sorted(jobs.terminated) == ["a:7", "j"]


def test_a_job_of_another_deployment_is_not_ended_and_loses_the_sample(table: SampleTable) -> None:
    add(table, "S1", status=1, owner=OTHER, job_id="j")
    jobs = Jobs(j="RUNNING")
    jobs.tags = {TAG_DEPLOYMENT: "else"}

    claims = claim(table, "S1", runs={"other": "failed"}, jobs=jobs)

    assert (claims.claimed, jobs.terminated) == (["S1"], [])


def test_a_run_of_another_deployment_is_not_known_to_be_over(table: SampleTable) -> None:
    add(table, "S1", owner="else/genomics_mapping/other")

    claims = claim(table, "S1", runs={"other": "failed"})

    assert "of another deployment" in claims.held["S1"]


def test_a_sample_that_changes_during_the_claim_is_looked_at_again(
    table: SampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(table, "S1", status=1, owner=OTHER, job_id="j")
    look = SampleTable.get
    looks = []

    def late_look(self: SampleTable, names: Any) -> Any:
        found = look(self, names)
        looks.append(1)
        if len(looks) == 1:
            add(table, "S1", status=4, owner=OTHER, job_id="j")
        return found

    monkeypatch.setattr(SampleTable, "get", late_look)

    claims = claim(table, "S1", runs={"other": "success"})

    # The claim does not see the owner change, so it sees the status: finished meanwhile.
    assert (claims.claimed, claims.finished) == ([], ["S1"])


def test_jobs_are_described_together_and_runs_asked_once(
    table: SampleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aws_jobs.sample_claims.JOB_IDS_PER_CALL", 3)
    names = [f"S{number}" for number in range(4)]
    for name in names:
        add(table, name, status=1, owner=OTHER, job_id=f"j-{name}")
    jobs = Jobs(**{f"j-{name}": "RUNNING" for name in names})
    asked: list[str] = []

    claims = Claimant(
        table=table,
        jobs=SampleJobs(jobs, "local"),
        owner=ME,
        arch="x86",
        run_state=lambda dag_id, run_id: asked.append(run_id) or "running",  # type: ignore[func-returns-value]
    ).claim(names)

    assert len(claims.held) == 4
    assert jobs.calls == [3, 1]
    assert asked == ["other"]


def test_what_is_not_in_the_table_is_not_made_by_a_claim(table: SampleTable) -> None:
    claims = claim(table, "S1")

    assert claims.held == {"S1": "it is not in the table any more"}
    assert table.get(["S1"]) == {}


def test_only_the_owner_says_how_a_sample_ended(table: SampleTable) -> None:
    add(table, "S1", owner=OTHER, status=3)

    assert not table.finish("S1", ME, "s3://b/manifest.json")
    assert not table.fail("S1", ME, "why")
    assert table.finish("S1", OTHER, "s3://b/manifest.json")
    assert not table.fail("S1", OTHER, "too late")
    assert read(table, "S1").status == Status.FINISHED


def test_a_reset_loses_against_whoever_was_faster(table: SampleTable) -> None:
    before = add(table, "S1", owner=OTHER, status=-1, reason="why")
    add(table, "S1", owner=OTHER, status=1)

    assert not table.reset(before)
    assert table.reset(read(table, "S1"))
    assert read(table, "S1").owner is None
