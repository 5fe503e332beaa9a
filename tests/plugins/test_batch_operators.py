"""Batch operators as a worker and a triggerer run them: what is submitted, and how it ends."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from aws_jobs.batch_job import BatchJob
from aws_jobs.exceptions import ExternalJobError, InputError, InvalidRequestError, TaskKilled
from aws_jobs.identity import TAG_DAG, TAG_ENDS_BY, TAG_RUN
from aws_jobs.links.batch import JOB_LINK, LOG_LINK
from aws_jobs.operators.batch import BatchArrayOperator, BatchJobOperator
from localaws.process import LocalAws
from tests.plugins.harness import (
    FALLBACK_QUEUE,
    QUEUE,
    TaskInstance,
    bash_job,
    live_jobs,
    resume,
    run,
    start,
    wait,
)

PREFIX = "s3://localaws-data/manifests"


def one(script: str = "true", *, job: dict[str, Any] | None = None, **arguments: Any) -> Any:
    return BatchJobOperator(task_id="task", job=bash_job(script, **(job or {})), **arguments)


def many(items: list[dict[str, Any]], script: str, **arguments: Any) -> BatchArrayOperator:
    job = bash_job(script)
    job.update(arguments.pop("job", {}))
    return BatchArrayOperator(
        task_id="task",
        job=job,
        items=items,
        manifest_prefix=PREFIX,
        name_key="name",
        **arguments,
    )


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def submitted(aws: LocalAws) -> int:
    return aws.count("batch", "SubmitJob")


def dies(operator: Any, ti: TaskInstance) -> None:
    """Run a try whose worker dies right after SubmitJob, before it has stored the id."""

    def before_the_id(key: str, value: Any) -> None:
        if key == "external_job" and value["external_ids"]:
            raise SystemExit(137)

    ti.store.on_set = before_the_id
    with pytest.raises(SystemExit):
        start(operator, ti)
    ti.store.on_set = lambda key, value: None
    ti.retry()


# One job


def test_a_job_runs_once_and_says_whose_it_is(batch: LocalAws, ti: TaskInstance) -> None:
    job_id = run(one(), ti)

    (job,) = batch.client("batch").describe_jobs(jobs=[job_id])["jobs"]
    assert (job["status"], submitted(batch)) == ("SUCCEEDED", 1)
    assert {TAG_DAG: "dag", TAG_RUN: ti.run_id}.items() <= job["tags"].items()
    assert TAG_ENDS_BY in job["tags"]
    (attempt,) = ti.xcoms["attempts"]
    assert (attempt["outcome"], attempt["exit_code"], attempt["job_id"]) == ("succeeded", 0, job_id)
    assert attempt["run_seconds"] >= 0
    assert batch.count("batch", "ListJobs") == 0


def test_the_links_point_to_the_job_and_its_log(batch: LocalAws, ti: TaskInstance) -> None:
    operator = one()
    deferred = start(operator, ti)
    while_it_waits = dict(operator.links)

    job_id = resume(operator, ti, deferred, wait(deferred))

    assert set(while_it_waits) == {JOB_LINK}
    assert set(operator.links) == {JOB_LINK, LOG_LINK}
    assert all(job_id in links[JOB_LINK] for links in (while_it_waits, operator.links))
    assert "$252Faws$252Fbatch$252Fjob" in operator.links[LOG_LINK]


def test_a_job_is_told_what_it_was_given(batch: LocalAws, ti: TaskInstance) -> None:
    resources = [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "300"}]
    overrides = {"containerOverrides": {"resourceRequirements": resources}}

    run(one('[ "$JOB_VCPUS $JOB_MEMORY_MIB" = "2 300" ]', job=overrides), ti)

    (attempt,) = ti.xcoms["attempts"]
    assert (attempt["vcpus"], attempt["memory_mib"]) == (2, 300)


def test_a_failed_job_shows_the_end_of_its_log_and_the_retry_runs_it_again(
    batch: LocalAws, ti: TaskInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExternalJobError, match="no such reference"):
        run(one("seq 500; echo 'mapper: no such reference' >&2; exit 3"), ti)

    log = capsys.readouterr().out
    assert "exit code 3" in log
    assert "    mapper: no such reference" in log
    ti.retry()
    with pytest.raises(ExternalJobError):
        run(one("exit 3"), ti)
    assert submitted(batch) == 2
    assert [attempt["exit_code"] for attempt in ti.xcoms["attempts"]] == [3, 3]


@pytest.mark.parametrize(
    ("job", "failure"),
    [
        ({"parameters": {"script": "exit 65"}}, "input"),
        ({"containerOverrides": {"command": ["no-such-command"]}}, "image"),
    ],
)
def test_what_no_retry_can_help_stops_after_one_attempt(
    batch: LocalAws, ti: TaskInstance, job: dict[str, Any], failure: str
) -> None:
    with pytest.raises(AirflowFailException):
        run(one(job=job), ti)

    assert [attempt["failure"] for attempt in ti.xcoms["attempts"]] == [failure]
    assert submitted(batch) == 1


def test_an_image_that_cannot_be_pulled_stops_after_one_attempt(
    batch: LocalAws, ti: TaskInstance
) -> None:
    batch.client("batch").register_job_definition(
        jobDefinitionName="absent",
        type="container",
        containerProperties={
            "image": "no-such-registry/image:1",
            "command": ["true"],
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"},
                {"type": "MEMORY", "value": "100"},
            ],
        },
    )

    with pytest.raises(AirflowFailException, match="CannotPullContainerError"):
        run(one(job={"jobDefinition": "absent", "parameters": {}}), ti)

    assert submitted(batch) == 1


def test_two_losses_of_the_host_lead_to_the_next_queue(batch: LocalAws, ti: TaskInstance) -> None:
    batch.set_faults([{"kind": "spot_loss", "job": "test-*", "count": 2}])

    job_id = run(one("sleep 0.5", fallback_queues=[FALLBACK_QUEUE]), ti)

    attempts = ti.xcoms["attempts"]
    assert [attempt["failure"] for attempt in attempts] == ["capacity", "capacity", None]
    assert [attempt["queue"] for attempt in attempts] == [QUEUE, QUEUE, FALLBACK_QUEUE]
    assert (attempts[-1]["job_id"], ti.try_number) == (job_id, 1)


def test_a_job_without_memory_gets_more_up_to_the_cap(batch: LocalAws, ti: TaskInstance) -> None:
    takes_250_mib = "python3 -c 'x = bytearray(250 << 20); import time; time.sleep(1)'"

    run(one(takes_250_mib, memory_cap_mib=1000), ti)

    attempts = ti.xcoms["attempts"]
    assert [attempt["failure"] for attempt in attempts] == ["memory", None]
    assert [attempt["memory_mib"] for attempt in attempts] == [200, 300]
    assert (attempts[0]["exit_code"], ti.try_number) == (137, 1)


def test_at_the_cap_a_job_without_memory_is_given_up(batch: LocalAws, ti: TaskInstance) -> None:
    takes_250_mib = "python3 -c 'x = bytearray(250 << 20); import time; time.sleep(1)'"

    with pytest.raises(AirflowFailException, match="Memory ran out"):
        run(one(takes_250_mib, memory_cap_mib=200), ti)

    assert submitted(batch) == 1


def test_a_job_that_batch_forgot_runs_again(batch: LocalAws, ti: TaskInstance) -> None:
    batch.set_faults([{"kind": "vanish", "job": "test-*", "count": 1}])
    operator = one()
    deferred = start(operator, ti)

    # The trigger's patience with an unknown job is two minutes.
    again = resume(operator, ti, deferred, {"outcome": "unseen", "job": None})
    resume(operator, ti, again, wait(again))

    assert submitted(batch) == 2
    assert [attempt["failure"] for attempt in ti.xcoms["attempts"]] == ["lost", None]


@pytest.mark.parametrize(("written", "jobs"), [("before", 2), ("after", 1)])
def test_what_a_forgotten_job_wrote_counts_if_it_is_newer(
    batch: LocalAws, ti: TaskInstance, written: str, jobs: int
) -> None:
    batch.set_faults([{"kind": "vanish", "job": "test-*", "count": 1}])
    operator = one(done_uri=f"s3://localaws-data/{written}.json")
    deferred = start(operator, ti)
    batch.client("s3").put_object(Bucket="localaws-data", Key=f"{written}.json", Body=b"{}")
    if written == "before":
        submission = ti.store.values["external_job"]
        submission["claimed_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    resume(operator, ti, deferred, {"outcome": "unseen", "job": None})

    assert submitted(batch) == jobs


def test_a_job_that_runs_too_long_is_terminated(batch: LocalAws, ti: TaskInstance) -> None:
    with pytest.raises(AirflowFailException, match="time budget"):
        run(one("sleep 60", running_budget=timedelta(seconds=1)), ti)

    _no_job_lives(batch)


def test_a_job_that_is_stuck_is_terminated_with_the_reason(
    batch: LocalAws, ti: TaskInstance
) -> None:
    too_much = [{"type": "VCPU", "value": "30"}, {"type": "MEMORY", "value": "900000"}]
    job = {"containerOverrides": {"resourceRequirements": too_much}}

    with pytest.raises(AirflowFailException, match="MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"):
        run(one(job=job, stuck_budget=timedelta(seconds=1)), ti)

    _no_job_lives(batch)


# Submit once


def test_death_between_the_call_and_the_memory_leaves_exactly_one_job(
    batch: LocalAws, ti: TaskInstance
) -> None:
    dies(one("sleep 1"), ti)

    job_id = run(one("sleep 1"), ti)

    assert submitted(batch) == 1
    assert _ids(batch, ti) == [job_id]


def test_it_is_found_although_listings_lag(batch: LocalAws, ti: TaskInstance) -> None:
    batch.set_faults(
        [{"kind": "listing_lag", "service": "batch", "operation": "ListJobs", "seconds": 0.8}]
    )
    dies(one("sleep 1"), ti)

    run(one("sleep 1"), ti)

    assert submitted(batch) == 1


def test_a_lost_answer_is_looked_up_and_not_repeated(batch: LocalAws, ti: TaskInstance) -> None:
    batch.set_faults(
        [{"kind": "lost_answer", "service": "batch", "operation": "SubmitJob", "count": 1}]
    )

    run(one(), ti)

    assert len(_ids(batch, ti)) == 1


def test_a_retry_reconnects_and_a_clear_ends_the_old_job_first(
    batch: LocalAws, ti: TaskInstance
) -> None:
    first = start(one("sleep 30"), ti)
    ti.retry()
    second = start(one("sleep 30"), ti)
    ti.clear()
    third = start(one("sleep 30"), ti)

    ids = [deferred.trigger.job_id for deferred in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert submitted(batch) == 2
    _wait_until(lambda: [job["id"] for job in live_jobs(batch)] == [ids[2]])


def test_a_run_that_is_deleted_and_made_again_is_another(batch: LocalAws, ti: TaskInstance) -> None:
    start(many(named("a"), "sleep 20"), ti)
    again = TaskInstance()
    again.run_id = ti.run_id
    time.sleep(1.0)

    start(many(named("a"), "sleep 20"), again)

    old, new = (_manifest(batch, f"manifests/{each}.jsonl") for each in _digests_by_age(batch, ti))
    assert old[0]["attempt"] < new[0]["attempt"]


def test_a_task_that_is_killed_ends_its_job(batch: LocalAws, ti: TaskInstance) -> None:
    operator = one("sleep 30")
    deferred = start(operator, ti)
    fresh = one("sleep 30")
    fresh.execute_complete = lambda *_, **__: fresh.on_kill()

    with pytest.raises(TaskKilled):
        resume(fresh, ti, deferred, {"outcome": "ended"})

    _no_job_lives(batch)


def test_bad_requests_are_refused_before_any_call(batch: LocalAws, ti: TaskInstance) -> None:
    job = bash_job(jobName="a b", timeout={"attemptDurationSeconds": 5}, jobPriority=1)

    with pytest.raises(InvalidRequestError) as refused:
        start(BatchJobOperator(task_id="task", job=job), ti)

    assert len(refused.value.problems) == 3
    assert submitted(batch) == 0


# Arrays


def test_only_the_children_that_failed_are_submitted_again(
    batch: LocalAws, ti: TaskInstance
) -> None:
    names = [f"s{number:02d}" for number in range(50)]
    fails = "case $AWS_BATCH_JOB_ARRAY_INDEX in 7|19|42) exit 1;; esac"

    with pytest.raises(ExternalJobError, match="3 of 50 items"):
        run(many(named(*names), fails), ti)
    ti.retry()
    job_ids = run(many(named(*names), "true"), ti)

    parents = [job["parent"] for job in batch.jobs() if job["parent"]]
    arrays = [id for id in _ids(batch, ti) if id in parents]
    assert submitted(batch) == 2
    assert sorted(parents.count(array) for array in arrays) == [3, 50]
    tries = Counter(attempt["name"] for attempt in ti.xcoms["attempts"])
    assert {name for name, count in tries.items() if count == 2} == {"s07", "s19", "s42"}
    assert len(set(job_ids)) == 50


def test_each_child_finds_its_item_in_the_manifest(batch: LocalAws, ti: TaskInstance) -> None:
    run(many(named("a", "b", "c"), "true"), ti)

    (digest,) = {*_digests_by_age(batch, ti)}
    lines = _manifest(batch, f"manifests/{digest}.jsonl")
    assert [line["name"] for line in lines] == ["a", "b", "c"]
    assert {line["attempt"][:9] for line in lines} == {"0000.0000"}


def test_an_array_of_one_is_a_plain_job(batch: LocalAws, ti: TaskInstance) -> None:
    (job_id,) = run(many(named("only"), '[ -z "$AWS_BATCH_JOB_ARRAY_INDEX" ]'), ti)

    assert ":" not in job_id
    assert ti.xcoms["attempts"][0]["name"] == "only"


def test_a_single_item_may_be_handed_over_in_the_parameter_itself(
    batch: LocalAws, ti: TaskInstance
) -> None:
    sees = """[ "$(echo "$1" | cut -c1)" = "{" ]"""

    run(many(named("only"), sees, inline_item=True), ti)

    (job,) = batch.client("batch").describe_jobs(jobs=_ids(batch, ti))["jobs"]
    item = json.loads(job["parameters"]["manifest"])
    assert item["name"] == "only"
    assert item["attempt"].startswith("0000.0000")
    assert batch.count("s3", "PutObject") == 0


@pytest.mark.parametrize("value", ["x" * 5000, "$(id)", "Ref::manifest"])
def test_an_item_that_a_command_would_change_goes_by_the_manifest(
    batch: LocalAws, ti: TaskInstance, value: str
) -> None:
    run(many([{"name": "only", "value": value}], "true", inline_item=True), ti)

    (digest,) = {*_digests_by_age(batch, ti)}
    assert _manifest(batch, f"manifests/{digest}.jsonl")[0]["value"] == value


def test_bad_input_of_one_item_does_not_stop_the_others_nor_make_a_retry(
    batch: LocalAws, ti: TaskInstance
) -> None:
    script = '[ "$AWS_BATCH_JOB_ARRAY_INDEX" != 1 ] || { echo "map: S2 is cut off" >&2; exit 65; }'

    with pytest.raises(AirflowFailException, match=r"S2: input, .*S2 is cut off"):
        run(many(named("S1", "S2", "S3"), script), ti)

    outcomes = {attempt["name"]: attempt["outcome"] for attempt in ti.xcoms["attempts"]}
    assert outcomes == {"S1": "succeeded", "S2": "failed", "S3": "succeeded"}
    assert submitted(batch) == 1


def test_a_retry_after_a_crash_keeps_what_the_array_had_done(
    batch: LocalAws, ti: TaskInstance
) -> None:
    items = named("a", "b", "c")
    fails = '[ "$AWS_BATCH_JOB_ARRAY_INDEX" != 1 ]'
    deferred = start(many(items, fails), ti)
    wait(deferred)
    # The worker that should judge the end dies before it says anything.
    ti.retry()

    again = start(many(items, "true"), ti)
    assert isinstance(again, TaskDeferred)
    resume(many(items, "true"), ti, again, wait(again))

    assert submitted(batch) == 2
    again_run = [attempt["name"] for attempt in ti.xcoms["attempts"]]
    assert sorted(again_run) == ["a", "b", "b", "c"]


def test_a_killed_array_ends_as_a_whole_by_one_call(batch: LocalAws, ti: TaskInstance) -> None:
    operator = many(named("a", "b", "c"), "sleep 30")
    deferred = start(operator, ti)
    fresh = many(named("a", "b", "c"), "sleep 30")
    fresh.execute_complete = lambda *_, **__: fresh.on_kill()  # type: ignore[method-assign]

    with pytest.raises(TaskKilled):
        resume(fresh, ti, deferred, {"outcome": "ended"})

    assert batch.count("batch", "TerminateJob") == 1
    _no_job_lives(batch)


def test_a_clear_is_a_later_attempt_for_the_job(batch: LocalAws, ti: TaskInstance) -> None:
    run(many(named("a"), "true"), ti)
    ti.clear()
    run(many(named("a"), "true"), ti)

    attempts = [
        _manifest(batch, f"manifests/{each}.jsonl")[0]["attempt"]
        for each in _digests_by_age(batch, ti)
    ]
    assert [attempt[:9] for attempt in attempts] == ["0000.0000", "0001.0000"]


def test_half_of_the_submissions_throttled_are_still_one_job_each(batch: LocalAws) -> None:
    batch.set_faults(
        [
            {
                "kind": "throttle",
                "service": "batch",
                "operation": "SubmitJob",
                "share": 0.5,
                "seed": 1,
            }
        ]
    )
    tis = [TaskInstance(f"task-{number}") for number in range(6)]

    for ti in tis:
        start(one("true"), ti)

    runs = [job["tags"].get(TAG_RUN) for job in batch.jobs()]
    assert [runs.count(ti.run_id) for ti in tis] == [1] * 6


# What the end of a try finds


def test_a_job_whose_end_was_noted_is_not_reconnected_to(batch: LocalAws) -> None:
    client = batch.client("batch")
    job_id = client.submit_job(**bash_job("sleep 20"))["jobId"]
    fresh = BatchJob(client, bash_job(), {}, [QUEUE])
    judged = replace(fresh, judged=(job_id,))

    went_on, is_over = (each.get_job_status([job_id]) or "" for each in (fresh, judged))

    assert fresh.is_job_active(went_on)
    assert not judged.is_job_active(is_over)
    assert not judged.is_job_succeeded(is_over)


def test_items_that_came_later_are_taken_by_a_clear(batch: LocalAws, ti: TaskInstance) -> None:
    assert run(many([], "true"), ti) == []

    ti.clear()
    assert len(run(many(named("a"), "true"), ti)) == 1
    ti.retry()
    with pytest.raises(InputError, match="clear the task"):
        run(many(named("a", "b"), "true"), ti)
    ti.clear()
    assert len(run(many(named("a", "b"), "true"), ti)) == 2


def test_a_kill_while_a_lost_job_is_submitted_again_leaves_none(
    batch: LocalAws, ti: TaskInstance
) -> None:
    batch.set_faults([{"kind": "spot_loss", "job": "test-*", "count": 1}])
    operator = one("sleep 30")
    deferred = start(operator, ti)
    event = wait(deferred)
    fresh = one("sleep 30")

    def killed_after_the_id(key: str, value: Any) -> None:
        if key == "external_job" and value["generation"] == 1 and value["external_ids"]:
            fresh.on_kill()

    ti.store.on_set = killed_after_the_id
    with pytest.raises(TaskKilled):
        resume(fresh, ti, deferred, event)

    assert submitted(batch) == 2
    _no_job_lives(batch)


def test_a_job_that_was_out_of_sight_is_waited_for_again(batch: LocalAws, ti: TaskInstance) -> None:
    operator = one("sleep 2")
    deferred = start(operator, ti)

    again = resume(operator, ti, deferred, {"outcome": "unseen", "job": None})
    resume(operator, ti, again, wait(again))

    assert submitted(batch) == 1
    assert again.trigger.job_id == deferred.trigger.job_id


def test_a_job_that_succeeds_while_its_task_gives_up_has_succeeded(
    batch: LocalAws, ti: TaskInstance
) -> None:
    operator = one()
    deferred = start(operator, ti)
    wait(deferred)

    job_id = resume(operator, ti, deferred, {"outcome": "timeout", "job": None})

    assert job_id == deferred.trigger.job_id


def test_death_after_a_job_was_given_up_does_not_run_it_again(
    batch: LocalAws, ti: TaskInstance
) -> None:
    operator = one("sleep 30", running_budget=timedelta(seconds=1))
    deferred = start(operator, ti)
    event = wait(deferred)

    def dies_before_it_judges(key: str, value: Any) -> None:
        raise SystemExit(137)

    ti.store.on_set = dies_before_it_judges
    with pytest.raises(SystemExit):
        resume(operator, ti, deferred, event)
    ti.store.on_set = lambda key, value: None
    ti.retry()
    with pytest.raises(AirflowFailException, match="time budget"):
        run(one("sleep 30", running_budget=timedelta(seconds=1)), ti)

    assert submitted(batch) == 1


def test_children_that_had_ended_by_themselves_keep_their_ends(
    batch: LocalAws, ti: TaskInstance
) -> None:
    script = "case $AWS_BATCH_JOB_ARRAY_INDEX in 0) exit 65;; 1) exit 3;; *) sleep 30;; esac"
    operator = many(named("a", "b", "c"), script)
    deferred = start(operator, ti)
    job_id = deferred.trigger.job_id
    _wait_until(
        lambda: (
            [job["state"] for job in batch.jobs() if job["parent"] == job_id].count("FAILED") == 2
        )
    )

    with pytest.raises(ExternalJobError):
        resume(operator, ti, deferred, {"outcome": "timeout", "job": None})

    failures = {attempt["name"]: attempt["failure"] for attempt in ti.xcoms["attempts"]}
    assert failures == {"a": "input", "b": "application", "c": "timeout"}
    _no_job_lives(batch)


def test_a_refused_submission_says_why_on_each_try(batch: LocalAws, ti: TaskInstance) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=r"Batch refused the job"):
            run(one(job={"jobQueue": "nowhere"}), ti)
        ti.retry()


def test_a_cap_that_is_no_number_is_refused_before_any_call(
    batch: LocalAws, ti: TaskInstance
) -> None:
    with pytest.raises(InvalidRequestError, match="memory_cap_mib"):
        run(one(memory_cap_mib="None"), ti)

    assert submitted(batch) == 0


def _manifest(aws: LocalAws, key: str) -> list[dict[str, Any]]:
    body = aws.client("s3").get_object(Bucket="localaws-data", Key=key)["Body"].read()
    return [json.loads(line) for line in body.splitlines()]


def _ids(aws: LocalAws, ti: TaskInstance) -> list[str]:
    """Return the jobs of a run, an array as one."""
    return [
        job["id"]
        for job in aws.jobs()
        if job["tags"].get(TAG_RUN) == ti.run_id and not job["parent"]
    ]


def _digests_by_age(aws: LocalAws, ti: TaskInstance) -> list[str]:
    jobs = [job for job in aws.jobs() if job["tags"].get(TAG_RUN) == ti.run_id]
    jobs.sort(key=lambda job: job["created"])
    return [job["tags"]["aws-jobs:run-key"] for job in jobs]


def _no_job_lives(aws: LocalAws) -> None:
    _wait_until(lambda: not live_jobs(aws))


def _wait_until(condition: Any, timeout: float = 10.0) -> None:
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
