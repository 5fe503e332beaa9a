"""Steps: they really run, in order, and what happens when they fail or are cancelled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.localaws.conftest import BUCKET, Emr, bash, until
from tests.localaws.test_clusters import FAST, refused


@pytest.fixture
def cluster(emr: Emr) -> str:
    return emr.start()


def states(emr: Emr, cluster: str, steps: list[str]) -> list[str]:
    return [emr.step_state(cluster, step) for step in steps]


def test_a_step_runs_and_leaves_its_logs(emr: Emr, cluster: str) -> None:
    (step,) = emr.add(cluster, "echo out; echo err >&2")

    emr.client.get_waiter("step_complete").wait(ClusterId=cluster, StepId=step, WaiterConfig=FAST)
    found = emr.step(cluster, step)

    assert emr.log(cluster, "steps", step, "stdout") == "out\n"
    assert emr.log(cluster, "steps", step, "stderr") == "err\n"
    assert "exit code 0" in emr.log(cluster, "steps", step, "controller")
    times = found["Status"]["Timeline"]
    assert times["CreationDateTime"] <= times["StartDateTime"] <= times["EndDateTime"]
    assert found["Config"]["Args"] == ["bash", "-c", "echo out; echo err >&2"]


def test_a_failed_step_says_why_and_where_its_log_is(emr: Emr, cluster: str) -> None:
    (step,) = emr.add(cluster, "echo 'java.lang.IllegalStateException: no fuel' >&2; exit 3")

    status = emr.await_step(cluster, step)["Status"]

    assert status["State"] == "FAILED"
    assert status["FailureDetails"] == {
        "Reason": "Unknown Error.",
        "Message": "java.lang.IllegalStateException: no fuel",
        "LogFile": f"s3://{BUCKET}/logs/{cluster}/steps/{step}/stderr.gz",
    }


def test_the_failure_of_a_python_driver_is_found_in_stdout(emr: Emr, cluster: str) -> None:
    (step,) = emr.add(cluster, "python3 -c 'import json; json.loads(\"{\")' 2>&1; exit 1")

    details = emr.await_step(cluster, step)["Status"]["FailureDetails"]

    assert details["Message"].startswith("json.decoder.JSONDecodeError: ")
    assert details["LogFile"].endswith("/stdout.gz")


def test_a_command_that_is_not_there_fails_with_its_name(emr: Emr, cluster: str) -> None:
    jar = {"Jar": "command-runner.jar", "Args": ["no-such-command", "x"]}
    step = emr.client.add_job_flow_steps(
        JobFlowId=cluster,
        Steps=[{"Name": "x", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}],
    )["StepIds"][0]

    status = emr.await_step(cluster, step)["Status"]

    assert status["State"] == "FAILED"
    assert "no-such-command" in status["FailureDetails"]["Message"]


def test_arguments_reach_the_command_unchanged(emr: Emr, cluster: str) -> None:
    args = ["printf", "%s|", "a b", "$HOME", "it's", '"q"', "", "a;b"]
    jar = {"Jar": "command-runner.jar", "Args": args}
    step = emr.client.add_job_flow_steps(
        JobFlowId=cluster,
        Steps=[{"Name": "x", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}],
    )["StepIds"][0]

    emr.await_step(cluster, step, "COMPLETED")

    assert emr.log(cluster, "steps", step, "stdout") == 'a b|$HOME|it\'s|"q"||a;b|'


def test_a_step_starts_in_an_empty_folder_of_its_own_and_can_reach_s3(
    emr: Emr, cluster: str
) -> None:
    script = "ls -A | wc -l; touch here; pwd; echo $AWS_ENDPOINT_URL $AWS_DEFAULT_REGION; env"
    one, two = emr.add(cluster, script, script)

    emr.await_step(cluster, two, "COMPLETED")
    first, second = (emr.log(cluster, "steps", s, "stdout").splitlines() for s in (one, two))

    assert first[0] == second[0] == "0"
    assert first[1] != second[1]
    assert first[2] == f"{emr.aws.endpoint_url} us-east-1"
    assert not any(line.startswith("PYTEST") for line in first), "the server's environment leaks"


def test_a_script_runs_from_s3_with_its_arguments(emr: Emr, cluster: str) -> None:
    script = emr.put("code/job.sh", '#!/bin/bash\necho "$# $2"\n')
    jar = "s3://us-east-1.elasticmapreduce/libs/script-runner/script-runner.jar"
    config = {"Jar": jar, "Args": [script, "a", "b c"]}
    missing = {"Jar": jar, "Args": [f"s3://{BUCKET}/code/none.sh"]}
    steps = [
        {"Name": "x", "ActionOnFailure": "CONTINUE", "HadoopJarStep": one}
        for one in (config, missing)
    ]

    good, bad = emr.client.add_job_flow_steps(JobFlowId=cluster, Steps=steps)["StepIds"]

    assert emr.await_step(cluster, bad)["Status"]["State"] == "FAILED"
    assert emr.log(cluster, "steps", good, "stdout") == "2 b c\n"
    assert "none.sh" in emr.log(cluster, "steps", bad, "stderr")


def test_a_jar_that_does_not_run_here_fails_with_what_to_do(emr: Emr, cluster: str) -> None:
    step = {
        "Name": "x",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "s3://b/own.jar"},
    }
    (step_id,) = emr.client.add_job_flow_steps(JobFlowId=cluster, Steps=[step])["StepIds"]

    status = emr.await_step(cluster, step_id)["Status"]

    assert status["State"] == "FAILED"
    assert "command-runner.jar" in status["FailureDetails"]["Message"]


@pytest.mark.parametrize("command", ["sudo", "shutdown", "reboot"])
def test_a_step_has_no_power_over_this_machine(emr: Emr, cluster: str, command: str) -> None:
    (step,) = emr.add(cluster, f"{command} -h now")

    status = emr.await_step(cluster, step)["Status"]

    assert status["State"] == "FAILED"
    assert f"localaws: {command} is refused" in status["FailureDetails"]["Message"]


def test_s3_dist_cp_copies_what_matches(emr: Emr, cluster: str) -> None:
    for name in ("a/1.csv", "a/2.csv", "b/3.txt"):
        emr.put(f"to-copy/{name}", name)
    source, target = f"s3://{BUCKET}/to-copy", f"s3://{BUCKET}/copied"
    args = ["s3-dist-cp", f"--src={source}", f"--dest={target}", "--srcPattern=.*[.]csv"]
    step = {
        "Name": "copy",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": args},
    }
    (step_id,) = emr.client.add_job_flow_steps(JobFlowId=cluster, Steps=[step])["StepIds"]

    emr.await_step(cluster, step_id, "COMPLETED")

    listed = emr.s3.list_objects_v2(Bucket=BUCKET, Prefix="copied/")["Contents"]
    assert [item["Key"] for item in listed] == ["copied/a/1.csv", "copied/a/2.csv"]
    body = emr.s3.get_object(Bucket=BUCKET, Key="copied/a/2.csv")["Body"].read()
    assert body == b"a/2.csv"


def test_s3_dist_cp_groups_files_and_refuses_what_it_does_not_know(emr: Emr, cluster: str) -> None:
    for name in ("x-1.log", "x-2.log", "y-1.log"):
        emr.put(f"logs-in/{name}", f"{name}\n")
    base = f"s3-dist-cp --src s3://{BUCKET}/logs-in --dest s3://{BUCKET}/grouped"
    good, bad, empty = emr.add(
        cluster,
        f"{base} --groupBy '.*/(.)-.*'",
        f"{base} --outputCodec=gz",
        f"s3-dist-cp --src s3://{BUCKET}/nothing-here --dest s3://{BUCKET}/grouped",
    )

    emr.await_step(cluster, empty, "FAILED")

    assert emr.step_state(cluster, good) == "COMPLETED"
    assert emr.step_state(cluster, bad) == "FAILED"
    joined = emr.s3.get_object(Bucket=BUCKET, Key="grouped/x")["Body"].read()
    assert joined == b"x-1.log\nx-2.log\n"
    assert "nothing-here does not exist" in emr.log(cluster, "steps", empty, "stderr")


def test_steps_run_one_after_the_other(emr: Emr, cluster: str) -> None:
    steps = emr.add(cluster, "sleep 0.2", "true", "true")

    emr.await_step(cluster, steps[-1], "COMPLETED")

    times = [emr.step(cluster, step)["Status"]["Timeline"] for step in steps]
    for before, after in pairwise(times):
        assert before["EndDateTime"] <= after["StartDateTime"]


def test_as_many_steps_run_at_once_as_the_concurrency_level_says(emr: Emr) -> None:
    cluster = emr.start(StepConcurrencyLevel=2)
    steps = emr.add(cluster, "sleep 20", "sleep 20", "sleep 20")

    until(lambda: states(emr, cluster, steps) == ["RUNNING", "RUNNING", "PENDING"], "two at once")
    emr.client.modify_cluster(ClusterId=cluster, StepConcurrencyLevel=3)

    until(lambda: states(emr, cluster, steps) == ["RUNNING"] * 3, "three at once")


def test_a_failed_step_lets_the_next_one_run_by_continue(emr: Emr, cluster: str) -> None:
    steps = emr.add(cluster, "false", "true", action="CONTINUE")

    emr.await_step(cluster, steps[1], "COMPLETED")

    assert emr.step_state(cluster, steps[0]) == "FAILED"
    assert emr.state(cluster) in ("RUNNING", "WAITING")


def test_a_failed_step_cancels_the_waiting_ones_by_cancel_and_wait(emr: Emr, cluster: str) -> None:
    steps = emr.add(cluster, "sleep 0.3; false", "true", "true", action="CANCEL_AND_WAIT")

    emr.await_step(cluster, steps[0], "FAILED")

    assert states(emr, cluster, steps) == ["FAILED", "CANCELLED", "CANCELLED"]
    emr.await_state(cluster, "WAITING")


@pytest.mark.parametrize("action", ["TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"])
def test_a_failed_step_ends_the_cluster_by_terminate_cluster(
    emr: Emr, cluster: str, action: str
) -> None:
    steps = emr.add(cluster, "sleep 0.3; false", "true", action=action)

    status = emr.await_state(cluster, "TERMINATED_WITH_ERRORS")["Status"]

    assert status["StateChangeReason"] == {
        "Code": "STEP_FAILURE",
        "Message": "Shut down as step failed",
    }
    assert states(emr, cluster, steps) == ["FAILED", "CANCELLED"]


def test_a_protected_cluster_survives_its_step(emr: Emr) -> None:
    cluster = emr.start(Instances={"TerminationProtected": True})
    steps = emr.add(cluster, "sleep 0.3; false", "true", action="TERMINATE_CLUSTER")

    emr.await_step(cluster, steps[0], "FAILED")

    assert emr.await_state(cluster, "WAITING")["TerminationProtected"] is True
    assert emr.step_state(cluster, steps[1]) == "CANCELLED"


@pytest.mark.parametrize("action", ["CANCEL_AND_WAIT", "TERMINATE_CLUSTER"])
def test_above_concurrency_1_only_continue_is_taken(emr: Emr, action: str) -> None:
    cluster = emr.start(StepConcurrencyLevel=2)

    code, message = refused(
        emr.client.add_job_flow_steps, JobFlowId=cluster, Steps=[bash("true", action=action)]
    )

    assert code == "ValidationException"
    assert action in message
    assert emr.client.list_steps(ClusterId=cluster)["Steps"] == []


def test_a_step_that_runs_is_cancelled_by_an_interrupt(
    emr: Emr, cluster: str, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    loop = f"touch {up}; while :; do sleep 0.05; done"
    (step,) = emr.add(cluster, f"trap 'echo bye; exit 0' INT; {loop}")
    until(up.exists, "the step to be up")

    answer = emr.client.cancel_steps(ClusterId=cluster, StepIds=[step])["CancelStepsInfoList"]
    emr.await_step(cluster, step, "CANCELLED")

    assert answer == [{"StepId": step, "Status": "SUBMITTED"}]
    assert emr.log(cluster, "steps", step, "stdout") == "bye\n"


def test_a_step_that_ignores_the_interrupt_is_cancelled_by_force(
    emr: Emr, cluster: str, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    (step,) = emr.add(cluster, f"trap '' INT; touch {up}; while :; do sleep 0.05; done")
    until(up.exists, "the step to be up")

    emr.client.cancel_steps(ClusterId=cluster, StepIds=[step])
    with pytest.raises(AssertionError):
        until(lambda: emr.step_state(cluster, step) == "CANCELLED", "what must not come", 0.8)
    deaf = emr.step_state(cluster, step)
    emr.client.cancel_steps(
        ClusterId=cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS"
    )

    assert deaf == "CANCEL_PENDING"
    emr.await_step(cluster, step, "CANCELLED")


def test_a_waiting_step_is_cancelled_and_an_ended_one_is_not(emr: Emr, cluster: str) -> None:
    done, running, waiting = emr.add(cluster, "true", "sleep 30", "true")
    emr.await_step(cluster, running, "RUNNING")

    answer = emr.client.cancel_steps(ClusterId=cluster, StepIds=[waiting, done, "s-NONE"])

    infos = {info["StepId"]: info for info in answer["CancelStepsInfoList"]}
    assert infos[waiting]["Status"] == "SUBMITTED"
    assert infos[done]["Status"] == infos["s-NONE"]["Status"] == "FAILED"
    assert "COMPLETED" in infos[done]["Reason"]
    assert emr.step_state(cluster, waiting) == "CANCELLED"


def test_a_cluster_that_ends_takes_its_steps_along(emr: Emr, cluster: str) -> None:
    running, waiting = emr.add(cluster, "sleep 300 & echo $!; wait", "true")
    emr.await_step(cluster, running, "RUNNING")

    emr.client.terminate_job_flows(JobFlowIds=[cluster])
    emr.await_state(cluster, "TERMINATED")

    assert states(emr, cluster, [running, waiting]) == ["INTERRUPTED", "CANCELLED"]


def test_an_ended_cluster_takes_no_more_steps(emr: Emr) -> None:
    cluster = emr.start(keep=False)
    emr.await_state(cluster, "TERMINATED")

    code, message = refused(emr.client.add_job_flow_steps, JobFlowId=cluster, Steps=[bash("true")])

    assert code == "ValidationException"
    assert "may not be modified" in message


def test_steps_are_listed_newest_first_and_50_a_page(emr: Emr, cluster: str) -> None:
    steps = emr.add(cluster, "sleep 60", *["true"] * 59)

    first = emr.client.list_steps(ClusterId=cluster)
    (late,) = emr.add(cluster, "true")
    second = emr.client.list_steps(ClusterId=cluster, Marker=first["Marker"])
    running = emr.client.list_steps(ClusterId=cluster, StepStates=["RUNNING"])["Steps"]

    listed = [step["Id"] for step in first["Steps"] + second["Steps"]]
    assert len(first["Steps"]) == 50
    assert listed == steps[::-1], "a step that was added between two pages shifts nothing"
    assert late not in listed
    assert {step["Id"] for step in running} <= {steps[0]}


def test_at_most_10_steps_are_asked_for_by_id(emr: Emr, cluster: str) -> None:
    steps = emr.add(cluster, *["true"] * 11)

    found = emr.client.list_steps(ClusterId=cluster, StepIds=steps[:10])["Steps"]
    code, message = refused(emr.client.list_steps, ClusterId=cluster, StepIds=steps)
    unknown, _ = refused(emr.client.list_steps, ClusterId=cluster, StepIds=["s-NONE"])

    assert [step["Id"] for step in found] == steps[:10]
    assert (code, message) == (
        "InvalidRequestException",
        "At most 10 step ids are allowed, not 11.",
    )
    assert unknown == "InvalidRequestException"


def test_a_cluster_holds_256_active_steps(emr: Emr, cluster: str) -> None:
    emr.add(cluster, "sleep 120", *["true"] * 255)

    code, message = refused(emr.client.add_job_flow_steps, JobFlowId=cluster, Steps=[bash("true")])

    assert code == "ValidationException"
    assert "Maximum number" in message


def test_an_unknown_step_is_refused(emr: Emr, cluster: str) -> None:
    code, message = refused(emr.client.describe_step, ClusterId=cluster, StepId="s-NONE")

    assert (code, message) == ("InvalidRequestException", "Step id 's-NONE' is not valid.")


def test_no_log_is_stored_where_none_is_asked_for(emr: Emr) -> None:
    # LogUri is optional in the API
    instances: dict[str, Any] = {
        "KeepJobFlowAliveWhenNoSteps": False,
        "InstanceGroups": [
            {"InstanceRole": "MASTER", "InstanceCount": 1, "InstanceType": "m5.xlarge"}
        ],
    }
    cluster = emr.client.run_job_flow(
        Name="x", ReleaseLabel="emr-7.12.0", Instances=instances, Steps=[bash("exit 4")]
    )["JobFlowId"]

    emr.await_state(cluster, "TERMINATED")
    (step,) = emr.client.list_steps(ClusterId=cluster)["Steps"]

    assert step["Status"]["State"] == "FAILED"
    assert "LogFile" not in step["Status"]["FailureDetails"]
    assert "LogUri" not in emr.cluster(cluster)
