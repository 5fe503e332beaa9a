"""EMR operators against a localaws that runs what it is given."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.amazon.aws.operators.emr import (
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from aws_jobs.exceptions import ExternalJobError, InputError, InvalidRequestError, TaskKilled
from aws_jobs.operators.emr import (
    EmrCreateClusterOperator,
    EmrStepOperator,
    EmrSubmitStepsOperator,
    EmrTerminateClusterOperator,
)
from aws_jobs.verdicts import FailureClass
from localaws.process import LocalAws
from tests.plugins.harness import TaskInstance, bash_step, job_flow, resume, run, start, wait

Live = Callable[[], list[str]]
# The reads with which a task can find out about a cluster.
READS = [
    {"service": "emr", "operation": operation, "kind": "throttle"}
    for operation in ("DescribeCluster", "ListClusters", "DescribeStep", "ListSteps")
]
THREE_PRIMARIES = [
    {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 3},
    {"InstanceRole": "CORE", "InstanceType": "m5.xlarge", "InstanceCount": 1},
]


def create(**arguments: Any) -> EmrCreateClusterOperator:
    arguments = {"job_flow": job_flow(), **arguments}
    return EmrCreateClusterOperator(task_id="create", **arguments)


def step(cluster_id: str, script: str, **arguments: Any) -> EmrStepOperator:
    return EmrStepOperator(
        task_id="step", cluster_id=cluster_id, step=bash_step(script), **arguments
    )


def terminate(cluster_id: str, **arguments: Any) -> EmrTerminateClusterOperator:
    return EmrTerminateClusterOperator(task_id="end", cluster_id=cluster_id, **arguments)


def state_of(aws: LocalAws, cluster_id: str) -> str:
    return next(each["state"] for each in aws.clusters() if each["id"] == cluster_id)


def with_bootstrap(aws: LocalAws, script: str) -> dict[str, Any]:
    key = "code/bootstrap.sh"
    aws.client("s3").put_object(Bucket="localaws-data", Key=key, Body=f"#!/bin/bash\n{script}\n")
    action = {
        "Name": "prepare",
        "ScriptBootstrapAction": {"Path": f"s3://localaws-data/{key}", "Args": []},
    }
    return job_flow(BootstrapActions=[action])


def test_a_cluster_is_created_used_and_terminated(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    cluster_id = run(create(), ti)
    step_id = run(step(cluster_id, "echo hello"), TaskInstance("step"))
    assert live() == [cluster_id]

    run(terminate(cluster_id), TaskInstance("end"))

    assert step_id.startswith("s-")
    assert state_of(aws, cluster_id) == "TERMINATED"


def test_a_cluster_says_whose_it_is(aws: LocalAws, ti: TaskInstance) -> None:
    cluster_id = run(create(), ti)

    described = aws.client("emr").describe_cluster(ClusterId=cluster_id)["Cluster"]
    tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    assert tags.pop("aws-jobs:ends-by").endswith("Z")
    assert described["Name"].endswith(f"[{tags['aws-jobs:run-key']}]")
    assert tags == {
        "aws-jobs:deployment": "local",
        "aws-jobs:dag": "dag",
        "aws-jobs:run": ti.run_id,
        "aws-jobs:task": "task",
        "aws-jobs:map-index": "-1",
        "aws-jobs:run-key": tags["aws-jobs:run-key"],
        "aws-jobs:attempt": tags["aws-jobs:attempt"],
        "owner": "data-engineering",
        "cost-centre": "local",
        "for-use-with-amazon-emr-managed-policies": "true",
    }


def test_throttled_reads_after_the_creation_leave_no_cluster_where_stock_leaves_one(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    stock = EmrCreateJobFlowOperator(task_id="stock", job_flow_overrides=job_flow())
    aws.set_faults(READS)
    with pytest.raises(Exception, match="ThrottlingException"):
        stock.execute(ti.context)  # type: ignore[arg-type]
    left_by_stock = live()

    ours = create(startup_budget=timedelta(seconds=2))
    deferred = start(ours, ti)
    event = wait(deferred)
    aws.set_faults([])
    with pytest.raises(ExternalJobError) as failed:
        resume(ours, ti, deferred, event)

    assert len(left_by_stock) == 1
    assert live() == left_by_stock
    assert failed.value.verdict.failure is FailureClass.TIMEOUT


def test_throttled_reads_do_not_keep_a_cluster_alive_where_stock_does(
    aws: LocalAws, live: Live
) -> None:
    emr = aws.client("emr")
    for_stock, for_us = (emr.run_job_flow(**job_flow())["JobFlowId"] for _ in range(2))
    aws.set_faults(READS)
    stock = EmrTerminateJobFlowOperator(task_id="stock", job_flow_id=for_stock)
    with pytest.raises(Exception, match="ThrottlingException"):
        stock.execute(TaskInstance("stock").context)  # type: ignore[arg-type]

    start(terminate(for_us), TaskInstance("end"))

    assert live() == [for_stock]


def test_waiters_wait_while_aws_throttles(aws: LocalAws, ti: TaskInstance) -> None:
    aws.set_faults([{**READS[0], "count": 2}])

    cluster_id = run(create(), ti)

    assert state_of(aws, cluster_id) == "WAITING"


def test_a_cluster_that_does_not_start_in_time_is_ended(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    operator = create(
        job_flow=with_bootstrap(aws, "sleep 60"), startup_budget=timedelta(seconds=1.5)
    )

    with pytest.raises(ExternalJobError, match="time budget"):
        run(operator, ti)

    assert live() == []


def test_a_bootstrap_failure_shows_the_nodes_log_and_a_retry_makes_a_new_cluster(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    broken = create(job_flow=with_bootstrap(aws, "echo no such mirror >&2; exit 3"))
    with pytest.raises(ExternalJobError) as failed:
        run(broken, ti)
    verdict = failed.value.verdict
    assert verdict.failure is FailureClass.BOOTSTRAP
    assert "no such mirror" in verdict.tail
    assert live() == []

    ti.retry()
    with_bootstrap(aws, "exit 0")
    cluster_id = run(broken, ti)

    assert live() == [cluster_id]


def test_a_killed_create_ends_its_cluster(
    aws: LocalAws, ti: TaskInstance, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while the task is on its worker: an eviction, or a person."""
    operator = create()
    monkeypatch.setattr(operator, "show_links", lambda cluster_id: operator.on_kill())

    with pytest.raises(TaskKilled):
        start(operator, ti)

    assert live() == []


def test_a_create_that_is_killed_during_its_call_ends_its_cluster(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    """The kill is held back until the answer is remembered."""
    operator = create()
    ti.store.on_set = lambda key, value: operator.on_kill() if value["external_ids"] else None

    with pytest.raises(TaskKilled):
        start(operator, ti)

    assert aws.count("emr", "RunJobFlow") == 1
    assert live() == []


def test_a_kill_while_airflow_notes_the_deferral_ends_the_cluster_and_the_process(
    aws: LocalAws, ti: TaskInstance, live: Live, left: list[int]
) -> None:
    operator = create()
    start(operator, ti)

    operator.on_kill()

    assert live() == []
    assert left == [143]


def test_a_timeout_ends_the_cluster_and_is_reported_by_airflow(
    aws: LocalAws, ti: TaskInstance, live: Live, left: list[int]
) -> None:
    operator = create()
    start(operator, ti)

    try:
        raise AirflowTaskTimeout
    except AirflowTaskTimeout:
        operator.on_kill()

    assert live() == []
    assert left == []


def test_a_task_that_is_killed_before_it_began_starts_nothing(
    aws: LocalAws, ti: TaskInstance
) -> None:
    with pytest.raises(TaskKilled):
        create().on_kill()


@pytest.mark.parametrize("fault", [TaskDeferralError, TaskDeferralTimeout])
def test_a_fault_of_the_triggerer_ends_the_cluster(
    aws: LocalAws, ti: TaskInstance, live: Live, fault: type[Exception]
) -> None:
    operator = create()
    start(operator, ti)
    error = "Trigger timeout" if fault is TaskDeferralTimeout else "Trigger failure"

    with pytest.raises(fault):
        operator.resume_execution("__fail__", {"error": error}, ti.context)  # type: ignore[arg-type]

    assert live() == []


def test_marking_a_deferred_create_ends_its_cluster(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    import asyncio

    deferred = start(create(), ti)

    asyncio.run(deferred.trigger.on_kill())

    assert live() == []


def test_protection_is_lifted_only_where_emr_refuses(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    high_availability = job_flow()
    high_availability["Instances"]["InstanceGroups"] = THREE_PRIMARIES
    protected = run(create(job_flow=high_availability), ti)
    plain = run(create(), TaskInstance("create"))
    aws.reset_calls()

    run(terminate(plain), TaskInstance("end"))
    assert aws.count("emr", "SetTerminationProtection") == 0
    run(terminate(protected), TaskInstance("end"))

    assert aws.count("emr", "SetTerminationProtection") == 1
    assert live() == []


def test_a_protected_cluster_that_fails_to_start_in_time_is_ended(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    flow = with_bootstrap(aws, "sleep 60")
    flow["Instances"]["InstanceGroups"] = THREE_PRIMARIES

    with pytest.raises(ExternalJobError):
        run(create(job_flow=flow, startup_budget=timedelta(seconds=1.5)), ti)

    assert live() == []


def test_an_unknown_cluster_is_no_error_for_terminate(aws: LocalAws, ti: TaskInstance) -> None:
    run(terminate("j-NOSUCHCLUSTER"), ti)

    assert aws.count("emr", "TerminateJobFlows") == 1


def test_an_id_that_was_not_handed_over_is_refused(aws: LocalAws, ti: TaskInstance) -> None:
    with pytest.raises(InputError, match="clear that one too"):
        run(terminate("None"), ti)


def test_a_failed_step_shows_the_traceback_first(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    script = "python3 -c 'raise ValueError(\"column carrier is missing\")'"

    with pytest.raises(ExternalJobError) as failed:
        run(step(cluster_id, f"echo chatter; {script}"), ti)

    verdict = failed.value.verdict
    assert verdict.failure is FailureClass.APPLICATION
    assert verdict.cause[0].startswith("Traceback")
    assert verdict.cause[-1] == "ValueError: column carrier is missing"
    assert "column carrier is missing" in str(failed.value)
    assert verdict.log_uri.endswith("stderr.gz")
    assert verdict.report.index("probable cause") < verdict.report.index("end of its log")


def test_a_failed_step_is_submitted_again_by_the_retry(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "exit 1")
    with pytest.raises(ExternalJobError):
        run(operator, ti)

    ti.retry()
    with pytest.raises(ExternalJobError):
        run(operator, ti)

    assert len(aws.client("emr").list_steps(ClusterId=cluster_id)["Steps"]) == 2


def test_a_step_without_memory_says_so(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    with pytest.raises(ExternalJobError) as failed:
        run(step(cluster_id, "echo java.lang.OutOfMemoryError: Java heap space >&2; exit 1"), ti)

    assert failed.value.verdict.failure is FailureClass.MEMORY


def test_a_step_that_runs_too_long_is_cancelled(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "sleep 60", running_budget=timedelta(seconds=1))

    with pytest.raises(ExternalJobError) as failed:
        run(operator, ti)

    assert failed.value.verdict.failure is FailureClass.TIMEOUT
    states = _step_states(aws, cluster_id)
    assert states in (["CANCELLED"], ["CANCEL_PENDING"])


def test_a_step_that_completes_while_its_waiter_gives_up_has_completed(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "true")
    deferred = start(operator, ti)
    wait(deferred)

    late = {"outcome": "timeout", "state": "RUNNING"}

    assert resume(operator, ti, deferred, late) == deferred.trigger.step_id


def test_a_retry_that_is_refused_ends_the_cluster_of_the_try_before(
    aws: LocalAws, ti: TaskInstance, live: Live
) -> None:
    """A worker died while its cluster started, and a deploy brought a request that is not valid."""
    start(create(), ti)

    ti.retry()
    with pytest.raises(InvalidRequestError):
        start(create(job_flow=job_flow(Colour="red")), ti)

    assert live() == []


def test_a_step_that_queues_too_long_is_cancelled(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    aws.client("emr").add_job_flow_steps(JobFlowId=cluster_id, Steps=[bash_step("sleep 60")])
    operator = step(cluster_id, "true", queued_budget=timedelta(seconds=1.5))

    with pytest.raises(ExternalJobError) as failed:
        run(operator, ti)

    assert failed.value.verdict.failure is FailureClass.TIMEOUT
    assert "none: the step never ran" in failed.value.verdict.log_uri


def test_a_step_that_somebody_cancels_says_so(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "sleep 60")
    deferred = start(operator, ti)
    aws.client("emr").cancel_steps(ClusterId=cluster_id, StepIds=[deferred.trigger.step_id])

    with pytest.raises(ExternalJobError) as failed:
        resume(operator, ti, deferred, wait(deferred))

    assert failed.value.verdict.failure is FailureClass.CANCELLED


def test_a_cluster_that_ends_under_a_step_is_no_reason_to_retry(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "sleep 60")
    deferred = start(operator, ti)
    aws.client("emr").terminate_job_flows(JobFlowIds=[cluster_id])

    with pytest.raises(AirflowFailException, match="clear this task"):
        resume(operator, ti, deferred, wait(deferred))


def test_a_step_for_a_cluster_that_has_ended_says_what_to_clear(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    run(terminate(cluster_id), TaskInstance("end"))

    with pytest.raises(AirflowFailException, match="clear this task"):
        start(step(cluster_id, "true"), ti)


def test_a_killed_step_task_cancels_its_step(
    aws: LocalAws, cluster_id: str, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = step(cluster_id, "sleep 60")
    monkeypatch.setattr(operator, "show_links", lambda *ids: operator.on_kill())

    with pytest.raises(TaskKilled):
        start(operator, ti)

    _await_states(aws, cluster_id, ["CANCELLED"])


def test_after_a_fault_of_the_triggerer_the_step_goes_on_and_the_retry_reconnects(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    operator = step(cluster_id, "sleep 60")
    first = start(operator, ti)
    with pytest.raises(TaskDeferralError):
        operator.resume_execution("__fail__", {"error": "Trigger failure"}, ti.context)  # type: ignore[arg-type]

    ti.retry()
    second = start(operator, ti)

    assert second.trigger.step_id == first.trigger.step_id


def test_quoted_arguments_arrive_as_they_are(
    aws: LocalAws, cluster_id: str, ti: TaskInstance
) -> None:
    argument = "a 'b' \"c\" $HOME; exit 0"
    quoted = bash_step('echo "$0" >&2; exit 1')
    quoted["HadoopJarStep"]["Args"].append(argument)

    with pytest.raises(ExternalJobError) as failed:
        run(EmrStepOperator(task_id="step", cluster_id=cluster_id, step=quoted), ti)

    assert failed.value.verdict.tail == (argument,)


def test_bad_requests_are_refused_before_any_call(aws: LocalAws, ti: TaskInstance) -> None:
    bad = job_flow(ReleaseLabel="6.8", AutoTerminationPolicy={"IdleTimeout": 5}, Colour="red")
    del bad["Instances"]["KeepJobFlowAliveWhenNoSteps"]

    with pytest.raises(InvalidRequestError) as refused:
        start(create(job_flow=bad), ti)

    assert len(refused.value.problems) == 4
    assert aws.calls().get("emr", {}) == {}


def test_the_links_point_to_the_cluster_and_its_logs(aws: LocalAws, ti: TaskInstance) -> None:
    operator = create()
    cluster_id = start(operator, ti).trigger.cluster_id

    links = {
        link.name: link.get_link(operator, ti_key=None)  # type: ignore[arg-type]
        for link in operator.operator_extra_links
    }

    assert links["EMR cluster"].endswith(f"#/clusterDetails/{cluster_id}")
    assert f"prefix=elasticmapreduce/{cluster_id}/" in links["EMR logs in S3"]


def test_values_and_settings_are_there_in_templates(aws: LocalAws, ti: TaskInstance) -> None:
    flow = job_flow(Name="flights {{ day }}", LogUri="s3://{{ settings.bucket }}/logs")
    flow["Instances"]["InstanceGroups"][1]["InstanceCount"] = "{{ nodes }}"
    operator = create(
        job_flow=flow,
        values={"base": "2013", "day": "{{ base }}-01-01", "nodes": "2"},
        wait_until_ready=False,
    )

    cluster_id = run(operator, ti)

    described = aws.client("emr").describe_cluster(ClusterId=cluster_id)["Cluster"]
    assert described["Name"].startswith("flights 2013-01-01 [")
    assert described["LogUri"].startswith("s3")


def test_steps_are_submitted_by_one_call(aws: LocalAws, cluster_id: str, ti: TaskInstance) -> None:
    steps = [bash_step("true", name=f"step {number}") for number in range(12)]
    operator = EmrSubmitStepsOperator(task_id="submit", cluster_id=cluster_id, steps=steps)
    aws.reset_calls()

    step_ids = run(operator, ti)

    assert len(step_ids) == 12
    assert aws.calls()["emr"] == {"AddJobFlowSteps": {"200": 1}}


def _step_states(aws: LocalAws, cluster_id: str) -> list[str]:
    steps = aws.client("emr").list_steps(ClusterId=cluster_id)["Steps"]
    return [each["Status"]["State"] for each in steps]


def _await_states(aws: LocalAws, cluster_id: str, wanted: list[str]) -> None:
    import time

    give_up = time.monotonic() + 10
    while _step_states(aws, cluster_id) != wanted and time.monotonic() < give_up:
        time.sleep(0.1)
    assert _step_states(aws, cluster_id) == wanted
