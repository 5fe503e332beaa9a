"""Batch jobs: they really run, are limited, tried again and ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from localaws.batch.models import Outcome
from localaws.batch.retries import is_retried, matches
from tests.localaws.conftest import Batch, requirements, until

EXITED = "Essential container in task exited"
OOM = "OutOfMemoryError: Container killed due to memory usage"
#: Takes argv[1] MiB, which it writes to, and stays.
HOG = "import sys, time; x = b'x' * (int(sys.argv[1]) << 20); time.sleep(9)"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_job_runs_and_tells_how(batch: Batch) -> None:
    job_id = batch.submit("echo out; echo err >&2; printf 'no end'", tags={"a": "b"})

    job = batch.succeeded(job_id)

    (attempt,) = job["attempts"]
    assert job["statusReason"] == attempt["statusReason"] == EXITED
    assert job["container"]["exitCode"] == attempt["container"]["exitCode"] == 0
    assert job["container"]["logStreamName"].startswith("bash/default/")
    assert job["createdAt"] <= job["startedAt"] <= job["stoppedAt"]
    assert (attempt["startedAt"], attempt["stoppedAt"]) == (job["startedAt"], job["stoppedAt"])
    assert job["tags"] == {"a": "b"}
    assert job["jobQueue"].endswith(":job-queue/shared")
    assert job["jobDefinition"].endswith(":job-definition/bash:1")
    assert (job["isCancelled"], job["isTerminated"]) == (False, False)
    assert batch.printed(job) == ["out", "err", "no end"]


def test_a_job_has_a_folder_and_an_environment_of_its_own(batch: Batch) -> None:
    job_id = batch.submit("ls -A; pwd; env | grep ^AWS | sort")

    folder, *variables = batch.printed(batch.succeeded(job_id))

    assert dict(line.split("=", 1) for line in variables) == {
        "AWS_ACCESS_KEY_ID": "localaws",
        "AWS_BATCH_CE_NAME": batch.aws.jobs()[-1]["attempts"][0]["environment"],
        "AWS_BATCH_JOB_ATTEMPT": "1",
        "AWS_BATCH_JOB_ID": job_id,
        "AWS_BATCH_JQ_NAME": "shared",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": batch.aws.endpoint_url,
        "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "localaws",
    }
    until(lambda: not os.path.exists(folder), "the folder to go with the job")


def test_a_failed_job_tells_its_exit_code(batch: Batch) -> None:
    job = batch.ended(batch.submit("exit 3"))

    assert (job["status"], job["statusReason"]) == ("FAILED", EXITED)
    assert job["container"]["exitCode"] == 3
    assert "reason" not in job["container"]


def test_parameters_fill_the_command_and_the_definition_has_defaults(batch: Batch) -> None:
    definition = batch.definition(
        ["echo", "Ref::first", "Ref::second", "Ref::third", "x=Ref::first"],
        parameters={"first": "1", "second": "2"},
    )

    printed = batch.output("", jobDefinition=definition, parameters={"second": "b; rm -rf /"})

    assert printed == ["1 b; rm -rf / Ref::third x=Ref::first"]


def test_overrides_are_merged_into_the_definition(batch: Batch) -> None:
    definition = batch.definition(
        container={
            "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        }
    )
    overrides = {
        "command": ["bash", "-c", "echo $A $B $C"],
        "environment": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
        "resourceRequirements": [{"type": "MEMORY", "value": "300"}],
    }

    job_id = batch.submit(jobDefinition=definition, containerOverrides=overrides)
    job = batch.succeeded(job_id)

    assert batch.printed(job) == ["1 3 4"]
    found = job["container"]["resourceRequirements"]
    assert found == [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "300"}]
    assert len(batch.job(job_id)["container"]["environment"]) == 3


def test_sizes_of_old_override_each_other_but_not_resource_requirements(batch: Batch) -> None:
    old = batch.definition(
        ["true"], container={"resourceRequirements": [], "vcpus": 1, "memory": 100}
    )
    overrides = {"vcpus": 2, "memory": 200}

    legacy = batch.submit(jobDefinition=old, containerOverrides=overrides)
    new = batch.submit(containerOverrides=overrides)

    sizes = {job["id"]: (job["vcpus"], job["memory"]) for job in batch.aws.jobs()}
    assert (sizes[legacy], sizes[new]) == ((2, 200), (1, 500))


def test_an_image_stands_for_a_folder_of_commands(batch: Batch, tmp_path: Path) -> None:
    job = batch.ended(
        batch.submit(jobDefinition=batch.definition(container={"image": "nowhere/tools:1"}))
    )

    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotPullContainerError: ")
    assert "nowhere/tools" in job["container"]["reason"]
    assert "exitCode" not in job["container"]
    assert "startedAt" not in job
    assert len(job["attempts"]) == 1


def test_the_folder_of_an_image_comes_first_on_the_path(batch: Batch) -> None:
    definition = batch.definition(container={"image": "elsewhere/tools:2"})

    (path,) = batch.output("echo $PATH", jobDefinition=definition)

    assert path.startswith("/nonexistent/bin:")


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-file", "/etc/passwd"])
def test_a_command_that_is_not_in_the_image_cannot_be_started(batch: Batch, command: str) -> None:
    job = batch.ended(batch.submit(jobDefinition=batch.definition([command])))

    assert job["statusReason"] == "Task failed to start"
    reason = job["container"]["reason"]
    assert reason.startswith("CannotStartContainerError: ")
    assert f'exec: "{command}": executable file not found in $PATH' in reason
    assert job["container"]["exitCode"] == 127


def test_logs_go_to_the_group_of_the_definition_if_that_exists(batch: Batch) -> None:
    def definition(group: str) -> str:
        options = {"awslogs-group": group, "awslogs-stream-prefix": "mine"}
        configuration = {"logDriver": "awslogs", "options": options}
        return batch.definition(container={"logConfiguration": configuration})

    batch.logs.create_log_group(logGroupName="/own")

    job = batch.succeeded(batch.submit("echo here", jobDefinition=definition("/own")))
    missing = batch.ended(batch.submit("echo here", jobDefinition=definition("/missing")))

    assert job["container"]["logStreamName"].startswith("mine/default/")
    assert batch.printed(job, "/own") == ["here"]
    assert "The specified log group does not exist" in missing["container"]["reason"]


def test_a_log_can_be_read_backwards_by_page_while_the_job_runs(batch: Batch) -> None:
    job_id = batch.submit("seq 25; sleep 30")
    stream = batch.await_state(job_id, "RUNNING")["container"]["logStreamName"]
    where = {"logGroupName": "/aws/batch/job", "logStreamName": stream, "limit": 10}
    until(lambda: len(batch.printed(batch.job(job_id))) == 25, "all lines")

    pages, token = [], None
    while True:
        page = batch.logs.get_log_events(**where, **({"nextToken": token} if token else {}))
        if page["nextBackwardToken"] == token:
            break
        token = page["nextBackwardToken"]
        pages.append([event["message"] for event in page["events"]])

    assert batch.state(job_id) == "RUNNING"
    assert [len(page) for page in pages] == [10, 10, 5]
    assert pages[0][-1] == "25"
    assert pages[-1][0] == "1"


def test_what_a_job_leaves_running_ends_with_it(batch: Batch) -> None:
    (pid,) = batch.output("setsid sleep 300 >/dev/null 2>&1 & echo $!")

    assert not alive(int(pid))


# retries


def test_a_failed_attempt_is_repeated_and_all_are_kept(batch: Batch) -> None:
    job_id = batch.submit(
        "echo try $AWS_BATCH_JOB_ATTEMPT; exit $((3 - AWS_BATCH_JOB_ATTEMPT))",
        retryStrategy={"attempts": 5},
    )

    job = batch.succeeded(job_id)

    assert [one["container"]["exitCode"] for one in job["attempts"]] == [2, 1, 0]
    streams = {one["container"]["logStreamName"] for one in job["attempts"]}
    assert len(streams) == 3
    assert batch.printed(job) == ["try 3"]


def test_the_first_rule_that_applies_decides(batch: Batch) -> None:
    rules = [
        {"onExitCode": "4*", "onReason": "*", "action": "RETRY"},
        {"onStatusReason": "essential CONTAINER*", "action": "EXIT"},
    ]
    strategy = {"attempts": 9, "evaluateOnExit": rules}

    job = batch.ended(
        batch.submit("exit $((43 - AWS_BATCH_JOB_ATTEMPT * 2))", retryStrategy=strategy)
    )

    assert [one["container"]["exitCode"] for one in job["attempts"]] == [41, 39]


HOST = Outcome("Host EC2 (instance i-0abc) terminated.", has_lost_host=True)


@pytest.mark.parametrize(
    ("rules", "outcome", "expected"),
    [
        ([], HOST, True),
        ([{"onStatusReason": "Host EC2*", "action": "RETRY"}], HOST, True),
        ([{"onReason": "*", "action": "EXIT"}], HOST, False),
        ([{"onExitCode": "1", "action": "EXIT"}], HOST, True),
        ([{"onReason": "OutOfMemoryError:*", "action": "exit"}], Outcome("x", 137, OOM), False),
        ([{"onExitCode": "13", "action": "EXIT"}], Outcome("x", 137), True),
        ([{"onExitCode": "1", "onReason": "no", "action": "EXIT"}], Outcome("x", 1), True),
    ],
)
def test_rules_of_retries(rules: Any, outcome: Outcome, expected: bool) -> None:
    assert is_retried({"attempts": 2, "evaluateOnExit": rules}, 1, outcome) is expected
    assert not is_retried({"attempts": 2, "evaluateOnExit": rules}, 2, outcome)


def test_a_pattern_is_a_whole_or_a_beginning() -> None:
    assert matches("a*", "ABC")
    assert matches("*", "")
    assert not matches("a", "ab")
    assert not matches("b*", "ab")


# limits


def test_a_job_that_lasts_too_long_is_asked_to_end_and_not_repeated(batch: Batch) -> None:
    job_id = batch.submit(
        "trap 'echo asked; exit 5' TERM; sleep 30 & wait",
        timeout={"attemptDurationSeconds": 60},
        retryStrategy={"attempts": 3},
    )

    job = batch.ended(job_id)

    assert job["statusReason"] == "Job attempt duration exceeded timeout"
    assert job["container"]["exitCode"] == 5
    assert len(job["attempts"]) == 1
    assert batch.printed(job) == ["asked"]
    # 60 s are 0.3 s here
    assert 300 <= job["stoppedAt"] - job["startedAt"] < 5000


def test_a_job_that_does_not_end_when_asked_is_killed(batch: Batch) -> None:
    job_id = batch.submit(
        "trap '' TERM; while true; do sleep 0.1; done", timeout={"attemptDurationSeconds": 60}
    )

    job = batch.ended(job_id)

    assert job["container"]["exitCode"] == 137
    assert job["statusReason"] == "Job attempt duration exceeded timeout"


def test_a_job_within_its_timeout_is_left_alone(batch: Batch) -> None:
    batch.succeeded(batch.submit("sleep 0.5", timeout={"attemptDurationSeconds": 2000}))


def test_memory_is_limited_for_all_processes_together(batch: Batch) -> None:
    hog = f'python3 -c "{HOG}" 120'
    size = {"resourceRequirements": requirements(1, 200)}

    one = batch.submit(hog, containerOverrides=size)
    two = batch.submit(f"{hog} & {hog} & wait", containerOverrides=size)
    job = batch.ended(two)

    assert (job["statusReason"], job["container"]["reason"]) == (EXITED, OOM)
    assert job["container"]["exitCode"] == 137
    assert batch.state(one) == "RUNNING"
    peak = next(j for j in batch.aws.jobs() if j["id"] == two)["attempts"][0]["peak_memory_mib"]
    assert 200 < peak < 300


def test_memory_that_processes_share_counts_once(batch: Batch) -> None:
    forks = "import os, time; x = b'x' * (100 << 20); os.fork(); os.fork(); time.sleep(1.0)"

    batch.succeeded(
        batch.submit(
            f'python3 -c "{forks}"',
            containerOverrides={"resourceRequirements": requirements(1, 200)},
        )
    )


# ends on request


def test_a_running_job_is_terminated_with_its_children_and_the_reason(batch: Batch) -> None:
    job_id = batch.submit("sleep 300 & echo $!; wait", retryStrategy={"attempts": 3})
    until(lambda: batch.state(job_id) == "RUNNING" and batch.printed(batch.job(job_id)) != [], "it")
    (pid,) = batch.printed(batch.job(job_id))

    batch.client.terminate_job(jobId=job_id, reason="had enough")
    job = batch.ended(job_id)

    assert (job["status"], job["statusReason"]) == ("FAILED", "had enough")
    assert (job["isTerminated"], job["isCancelled"]) == (True, False)
    assert job["container"]["exitCode"] == 143
    assert len(job["attempts"]) == 1
    assert not alive(int(pid))


def test_a_waiting_job_ends_at_once(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    first = batch.submit("sleep 30", jobQueue=queue)
    cancelled, terminated = (batch.submit(jobQueue=queue) for _ in range(2))
    batch.await_state(first, "RUNNING")
    batch.await_state(terminated, "RUNNABLE")

    batch.client.cancel_job(jobId=cancelled, reason="not needed")
    batch.client.terminate_job(jobId=terminated, reason="nor this")

    one, two = batch.job(cancelled), batch.job(terminated)
    assert (one["status"], one["statusReason"]) == ("FAILED", "not needed")
    assert (one["isCancelled"], one["isTerminated"]) == (True, False)
    assert (two["status"], two["statusReason"]) == ("FAILED", "nor this")
    assert (two["isCancelled"], two["isTerminated"]) == (False, True)
    assert one["attempts"] == two["attempts"] == []


def test_cancelling_does_not_touch_what_runs_or_has_ended(batch: Batch) -> None:
    running = batch.submit("sleep 0.5")
    batch.await_state(running, "RUNNING")

    batch.client.cancel_job(jobId=running, reason="too late")
    job = batch.succeeded(running)
    batch.client.terminate_job(jobId=running, reason="later still")

    assert batch.job(running) == job
    assert (job["isCancelled"], job["isTerminated"]) == (False, False)
    batch.client.terminate_job(jobId="11111111-2222-3333-4444-555555555555", reason="who?")


def test_a_job_that_waits_for_others_is_cancelled_when_they_are_over(batch: Batch) -> None:
    first = batch.submit("sleep 0.5")
    second = batch.submit(dependsOn=[{"jobId": first}])
    batch.await_state(second, "PENDING")

    batch.client.cancel_job(jobId=second, reason="not needed")
    at_once = batch.job(second)
    batch.succeeded(first)
    later = batch.ended(second)

    assert (at_once["status"], at_once["isCancelled"]) == ("PENDING", True)
    assert (later["status"], later["statusReason"]) == ("FAILED", "not needed")


# capacity


def test_jobs_wait_for_vcpus_in_their_order(batch: Batch) -> None:
    queue = batch.queue(batch.environment(2))
    two = {"resourceRequirements": [{"type": "VCPU", "value": "2"}]}
    ids = [batch.submit("sleep 0.3", jobQueue=queue) for _ in range(3)]
    wide = batch.submit("sleep 0.2", jobQueue=queue, containerOverrides=two)
    last = batch.submit("true", jobQueue=queue)

    batch.await_state(ids[0], "RUNNING")
    waiting = [batch.state(job_id) for job_id in (ids[2], wide, last)]
    batch.succeeded(last)
    jobs = [batch.job(job_id) for job_id in (*ids, wide, last)]

    assert waiting == ["RUNNABLE"] * 3
    assert jobs[2]["startedAt"] >= min(jobs[0]["stoppedAt"], jobs[1]["stoppedAt"])
    # nobody overtakes a job that needs more
    assert jobs[3]["startedAt"] >= max(job["stoppedAt"] for job in jobs[:3])
    assert jobs[4]["startedAt"] >= jobs[3]["stoppedAt"]


def test_the_queue_with_more_priority_goes_first_where_two_share_an_environment(
    batch: Batch,
) -> None:
    environment = batch.environment(1)
    low, high = batch.queue(environment), batch.queue(environment, priority=5)
    running = batch.submit("sleep 0.5", jobQueue=low)
    batch.await_state(running, "RUNNING")

    behind = batch.submit(jobQueue=low)
    ahead = batch.submit(jobQueue=high)
    batch.succeeded(behind)

    assert batch.job(ahead)["stoppedAt"] <= batch.job(behind)["startedAt"]


def test_what_the_first_environment_has_no_room_for_goes_to_the_next(batch: Batch) -> None:
    spot, on_demand = batch.environment(1, "SPOT"), batch.environment(1)
    queue = batch.queue(spot, on_demand)

    ids = [batch.submit("echo $AWS_BATCH_CE_NAME; sleep 0.5", jobQueue=queue) for _ in range(2)]

    assert [batch.printed(batch.succeeded(one)) for one in ids] == [[spot], [on_demand]]


@pytest.mark.parametrize(
    ("vcpus", "memory", "reason"),
    [
        (65, 1000, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "),
        (1, 524_288, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "),
        (8, 1000, "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - "),
    ],
)
def test_a_job_that_fits_no_instance_stays_and_says_so(
    batch: Batch, vcpus: int, memory: int, reason: str
) -> None:
    queue = batch.queue(batch.environment(4))
    size = {"resourceRequirements": requirements(vcpus, memory)}
    job_id = batch.submit(jobQueue=queue, containerOverrides=size)
    until(lambda: "statusReason" in batch.job(job_id), "a reason")

    job = batch.job(job_id)
    batch.succeeded(batch.submit(jobQueue=queue))

    assert job["status"] == batch.state(job_id) == "RUNNABLE"
    assert job["statusReason"].startswith(reason)


def test_the_size_of_the_article_fits_its_family(batch: Batch) -> None:
    queue = batch.queue(batch.environment(2560))
    size = {"resourceRequirements": requirements(64, 500_000)}

    batch.succeeded(batch.submit(jobQueue=queue, containerOverrides=size))


def test_more_vcpus_let_waiting_jobs_go(batch: Batch) -> None:
    environment = batch.environment(1)
    queue = batch.queue(environment)
    first, second = (batch.submit("sleep 30", jobQueue=queue) for _ in range(2))
    batch.await_state(first, "RUNNING")
    assert batch.state(second) == "RUNNABLE"

    batch.client.update_compute_environment(
        computeEnvironment=environment, computeResources={"maxvCpus": 2}
    )
    batch.await_state(second, "RUNNING")

    (found,) = batch.client.describe_compute_environments(computeEnvironments=[environment])[
        "computeEnvironments"
    ]
    assert found["computeResources"]["desiredvCpus"] == 2


def test_many_short_jobs_at_once_all_end(batch: Batch) -> None:
    queue = batch.queue(batch.environment(200))

    ids = [batch.submit("exit 0", jobQueue=queue) for _ in range(100)]

    def states() -> set[str]:
        return {job["status"] for job in batch.client.describe_jobs(jobs=ids)["jobs"]}

    until(lambda: states() == {"SUCCEEDED"}, "all jobs", 60)
