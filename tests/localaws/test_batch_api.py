"""Batch's operations: what they list, page, change and refuse."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.localaws.conftest import Batch, requirements, until

UNKNOWN = "11111111-2222-3333-4444-555555555555"


def refused(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Code"] == "ClientException"
    return str(response["Error"]["Message"])


def names(page: dict[str, Any]) -> list[str]:
    return [job["jobName"] for job in page["jobSummaryList"]]


def pages(call: Any, **arguments: Any) -> list[dict[str, Any]]:
    found = [call(**arguments)]
    while "nextToken" in found[-1]:
        found.append(call(**arguments, nextToken=found[-1]["nextToken"]))
    return found


def test_unknown_jobs_are_left_out(batch: Batch) -> None:
    job_id = batch.submit("sleep 1", arrayProperties={"size": 2})

    ids = [UNKNOWN, job_id, f"{job_id}:1", f"{job_id}:2", f"{UNKNOWN}:0", "nonsense", f"{job_id}:x"]
    found = batch.client.describe_jobs(jobs=ids)["jobs"]

    assert [job["jobId"] for job in found] == [job_id, f"{job_id}:1"]


def test_a_hundred_jobs_are_described_at_once_and_no_more(batch: Batch) -> None:
    assert batch.client.describe_jobs(jobs=[UNKNOWN] * 100)["jobs"] == []
    assert "100" in refused(batch.client.describe_jobs, jobs=[UNKNOWN] * 101)


def test_without_a_status_only_running_jobs_are_listed(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    ended = batch.submit("exit 4", name="ended", jobQueue=queue)
    batch.ended(ended)
    running = batch.submit("sleep 30", name="running", jobQueue=queue)
    batch.submit(name="waiting", jobQueue=queue)
    batch.await_state(running, "RUNNING")

    (failed,) = batch.client.list_jobs(jobQueue=queue, jobStatus="FAILED")["jobSummaryList"]

    assert names(batch.client.list_jobs(jobQueue=queue)) == ["running"]
    assert names(batch.client.list_jobs(jobQueue=queue, jobStatus="RUNNABLE")) == ["waiting"]
    assert failed["container"] == {"exitCode": 4}
    assert failed["jobId"] == ended
    assert failed["stoppedAt"] >= failed["startedAt"] >= failed["createdAt"]


def test_the_children_of_an_array_are_listed_by_status_and_never_with_a_queue(
    batch: Batch,
) -> None:
    queue = batch.queue(batch.environment(4))
    script = "exit $((AWS_BATCH_JOB_ARRAY_INDEX % 2))"
    job_id = batch.submit(script, name="many", jobQueue=queue, arrayProperties={"size": 5})
    batch.ended(job_id)

    found = pages(batch.client.list_jobs, arrayJobId=job_id, jobStatus="SUCCEEDED", maxResults=2)
    by_name = batch.client.list_jobs(
        jobQueue=queue, filters=[{"name": "JOB_NAME", "values": ["many"]}]
    )["jobSummaryList"]

    indices = [[j["arrayProperties"]["index"] for j in page["jobSummaryList"]] for page in found]
    assert indices == [[0, 2], [4]]
    assert batch.client.list_jobs(arrayJobId=job_id)["jobSummaryList"] == []
    assert [job["jobId"] for job in by_name] == [job_id]
    assert by_name[0]["arrayProperties"]["size"] == 5


def test_a_name_is_matched_whole_or_by_its_beginning_whatever_the_case_and_status(
    batch: Batch,
) -> None:
    queue = batch.queue(batch.environment(1))
    for name in ("Map-a", "map-b", "map", "other"):
        batch.submit("sleep 0.2", name=name, jobQueue=queue)

    def by(value: str, **more: Any) -> list[str]:
        filters = [{"name": "JOB_NAME", "values": [value]}]
        return names(batch.client.list_jobs(jobQueue=queue, filters=filters, **more))

    # newest first; the status does not count
    assert by("MAP-*", jobStatus="FAILED") == ["map-b", "Map-a"]
    assert by("map") == ["map"]
    assert by("ma") == []
    assert by("*") == ["other", "map", "map-b", "Map-a"]


def test_jobs_are_listed_by_the_time_of_their_submission(batch: Batch) -> None:
    queue = batch.queue(batch.environment(1))
    first = batch.job(batch.submit(name="first", jobQueue=queue))["createdAt"]
    time.sleep(0.01)
    batch.submit(name="second", jobQueue=queue)

    def by(name: str, value: int | str) -> list[str]:
        filters = [{"name": name, "values": [str(value)]}]
        return names(batch.client.list_jobs(jobQueue=queue, filters=filters))

    assert by("AFTER_CREATED_AT", first) == ["second"]
    assert by("AFTER_CREATED_AT", first - 1) == ["second", "first"]
    assert by("BEFORE_CREATED_AT", first + 1) == ["first"]
    assert by("JOB_DEFINITION", "bash") == ["second", "first"]
    assert by("JOB_DEFINITION", "ba*") == ["second", "first"]
    assert by("JOB_DEFINITION", "BASH") == []


def test_one_filter_at_a_time(batch: Batch) -> None:
    one = {"name": "JOB_NAME", "values": ["x"]}

    for filters in ([one, one], [{"name": "NOPE", "values": ["x"]}], [{"name": "JOB_NAME"}]):
        assert refused(batch.client.list_jobs, jobQueue="shared", filters=filters)
    refused(batch.client.list_jobs, jobQueue="nope")
    refused(batch.client.list_jobs)
    refused(batch.client.list_jobs, jobQueue="shared", nextToken="nonsense!")


def test_a_page_holds_a_hundred_by_filter_and_a_thousand_by_status(batch: Batch) -> None:
    environment = batch.environment(1)
    queue = batch.queue(environment)
    batch.client.update_compute_environment(computeEnvironment=environment, state="DISABLED")
    for number in range(105):
        batch.submit(name=f"n{number}", jobQueue=queue)
    until(
        lambda: (
            len(batch.client.list_jobs(jobQueue=queue, jobStatus="RUNNABLE")["jobSummaryList"])
            == 105
        ),
        "all in one page",
    )

    filters = [{"name": "JOB_NAME", "values": ["n*"]}]
    found = pages(batch.client.list_jobs, jobQueue=queue, filters=filters)
    front = batch.client.get_job_queue_snapshot(jobQueue=queue)["frontOfQueue"]["jobs"]

    assert [len(page["jobSummaryList"]) for page in found] == [100, 5]
    assert [name for page in found for name in names(page)] == [f"n{n}" for n in range(104, -1, -1)]
    assert len(front) == 100
    ids = [job["jobArn"].rpartition("/")[2] for job in front[:50]]
    answer = batch.client.terminate_jobs(jobs=ids, reason="enough")
    assert (answer["successful"], answer["errors"]) == (ids, [])
    assert batch.job(ids[0])["statusReason"] == "enough"
    assert "50" in refused(batch.client.cancel_jobs, jobs=[UNKNOWN] * 51, reason="x")


def test_a_definition_has_revisions_and_the_newest_active_one_is_taken(batch: Batch) -> None:
    name = batch.definition(["echo", "one"])
    container = {
        "image": "local/any",
        "command": ["echo", "two"],
        "resourceRequirements": requirements(1, 100),
    }
    second = batch.client.register_job_definition(
        jobDefinitionName=name, type="container", containerProperties=container
    )

    newest = batch.output("", jobDefinition=name)
    by_number = batch.output("", jobDefinition=f"{name}:1")
    batch.client.deregister_job_definition(jobDefinition=second["jobDefinitionArn"])
    fallen_back = batch.output("", jobDefinition=name)

    assert (newest, by_number, fallen_back) == (["two"], ["one"], ["one"])
    assert second["revision"] == 2
    assert refused(
        batch.client.submit_job, jobName="x", jobQueue="shared", jobDefinition=f"{name}:2"
    )

    def found(**arguments: Any) -> list[tuple[int, str]]:
        answers = pages(batch.client.describe_job_definitions, **arguments)
        definitions = [one for page in answers for one in page["jobDefinitions"]]
        return [(one["revision"], one["status"]) for one in definitions]

    assert found(jobDefinitionName=name, maxResults=1) == [(2, "INACTIVE"), (1, "ACTIVE")]
    assert found(jobDefinitionName=name, status="ACTIVE") == [(1, "ACTIVE")]
    assert found(jobDefinitions=[f"{name}:2", "nope:1"]) == [(2, "INACTIVE")]
    assert found(jobDefinitions=[second["jobDefinitionArn"]]) == [(2, "INACTIVE")]


def test_queues_and_environments_are_made_changed_and_removed_in_order(batch: Batch) -> None:
    client = batch.client
    environment, other = batch.environment(3), batch.environment(4)
    queue = batch.queue(environment)
    (described,) = client.describe_job_queues(jobQueues=[queue])["jobQueues"]

    client.update_job_queue(
        jobQueue=described["jobQueueArn"],
        priority=7,
        computeEnvironmentOrder=[
            {"order": 2, "computeEnvironment": environment},
            {"order": 1, "computeEnvironment": other},
        ],
    )
    (changed,) = client.describe_job_queues(jobQueues=[queue])["jobQueues"]

    assert (described["state"], described["status"]) == ("ENABLED", "VALID")
    order = [one["computeEnvironment"] for one in changed["computeEnvironmentOrder"]]
    assert [arn.rpartition("/")[2] for arn in order] == [other, environment]
    assert changed["priority"] == 7
    refused(client.delete_job_queue, jobQueue=queue)
    client.update_job_queue(jobQueue=queue, state="DISABLED")
    assert "DISABLED" in refused(
        client.submit_job, jobName="x", jobQueue=queue, jobDefinition="bash"
    )
    client.update_compute_environment(computeEnvironment=other, state="DISABLED")
    refused(client.delete_compute_environment, computeEnvironment=other)
    client.delete_job_queue(jobQueue=queue)
    refused(client.delete_compute_environment, computeEnvironment=environment)
    client.delete_compute_environment(computeEnvironment=other)
    assert client.describe_job_queues(jobQueues=[queue])["jobQueues"] == []
    left = client.describe_compute_environments(computeEnvironments=[environment, other])
    assert [one["computeEnvironmentName"] for one in left["computeEnvironments"]] == [environment]


def test_jobs_queues_environments_and_definitions_have_tags(batch: Batch) -> None:
    client = batch.client
    job = batch.job(batch.submit("sleep 1", tags={"run": "1"}))
    definition = batch.definition(tags={"d": "1"})
    (found,) = client.describe_job_definitions(jobDefinitionName=definition)["jobDefinitions"]
    (queue,) = client.describe_job_queues(jobQueues=["shared"])["jobQueues"]
    order = queue["computeEnvironmentOrder"][0]

    for arn, before in (
        (job["jobArn"], {"run": "1"}),
        (found["jobDefinitionArn"], {"d": "1"}),
        (queue["jobQueueArn"], {}),
        (order["computeEnvironment"], {}),
    ):
        assert client.list_tags_for_resource(resourceArn=arn)["tags"] == before
        client.tag_resource(resourceArn=arn, tags={"more": "2", "run": "3"})
        client.untag_resource(resourceArn=arn, tagKeys=["more"])
        assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {**before, "run": "3"}

    assert batch.job(job["jobId"])["tags"] == {"run": "3"}
    refused(client.list_tags_for_resource, resourceArn=job["jobArn"][:-1])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"jobName": "has blanks"}, "jobName"),
        ({"jobName": "-x"}, "jobName"),
        ({"jobName": "x" * 129}, "jobName"),
        ({"jobQueue": "nope"}, "nope"),
        ({"jobDefinition": "nope"}, "nope"),
        ({"arrayProperties": {"size": 1}}, "size"),
        ({"arrayProperties": {"size": 10_001}}, "size"),
        ({"timeout": {"attemptDurationSeconds": 59}}, "60"),
        ({"retryStrategy": {"attempts": 11}}, "attempts"),
        ({"retryStrategy": {"evaluateOnExit": [{"action": "EXIT"}]}}, "attempts"),
        (
            {"retryStrategy": {"attempts": 1, "evaluateOnExit": [{"action": "EXIT"}] * 6}},
            "evaluateOnExit",
        ),
        (
            {
                "retryStrategy": {
                    "attempts": 1,
                    "evaluateOnExit": [{"action": "EXIT", "onExitCode": "!0"}],
                }
            },
            "onExitCode",
        ),
        ({"dependsOn": [{"jobId": UNKNOWN}]}, UNKNOWN),
        ({"dependsOn": [{"jobId": UNKNOWN}] * 21}, "20"),
        ({"dependsOn": [{"type": "SEQUENTIAL"}]}, "array"),
        ({"tags": {str(n): "" for n in range(51)}}, "tags"),
        ({"parameters": {"script": "x" * 31_000}}, "bytes"),
        (
            {"containerOverrides": {"environment": [{"name": "AWS_BATCH_X", "value": "1"}]}},
            "AWS_BATCH_X",
        ),
        ({"containerOverrides": {"resourceRequirements": requirements(1, 3)}}, "MiB"),
        ({"containerOverrides": {"resourceRequirements": requirements(0, 300)}}, "vCPU"),
        (
            {"containerOverrides": {"resourceRequirements": [{"type": "GPU", "value": "1"}]}},
            "GPU",
        ),
        ({"shareIdentifier": "x"}, "shareIdentifier"),
    ],
)
def test_what_a_submission_must_not_say(batch: Batch, request_: dict[str, Any], words: str) -> None:
    request = {"jobName": "x", "jobQueue": "shared", "jobDefinition": "bash", **request_}

    assert words in refused(batch.client.submit_job, **request)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"instanceTypes": ["z9z"]}, "z9z"),
        ({"type": "FARGATE"}, "FARGATE"),
        ({"subnets": []}, "subnets"),
        ({"maxvCpus": 0}, "maxvCpus"),
    ],
)
def test_an_environment_that_cannot_be(batch: Batch, resources: dict[str, Any], words: str) -> None:
    made = {
        "type": "EC2",
        "maxvCpus": 1,
        "instanceTypes": ["optimal"],
        "subnets": ["s"],
        "securityGroupIds": ["g"],
        **resources,
    }

    message = refused(
        batch.client.create_compute_environment,
        computeEnvironmentName="wrong",
        type="MANAGED",
        computeResources=made,
    )

    assert words in message


def test_an_operation_that_is_not_there_says_so(batch: Batch) -> None:
    client = batch.aws.client("batch", retries={"total_max_attempts": 1})

    with pytest.raises(ClientError, match="ListSchedulingPolicies") as caught:
        client.list_scheduling_policies()

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
