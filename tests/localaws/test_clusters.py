"""Clusters: their states, how they end, what EMR refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.localaws.conftest import Emr, bash, group, until

FAST = {"Delay": 1, "MaxAttempts": 20}
FLEET = [
    {
        "InstanceFleetType": "MASTER",
        "TargetOnDemandCapacity": 1,
        "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
    },
    {
        "InstanceFleetType": "CORE",
        "Name": "workers",
        "TargetOnDemandCapacity": 2,
        "TargetSpotCapacity": 8,
        "InstanceTypeConfigs": [
            {"InstanceType": "r5.2xlarge", "WeightedCapacity": 2},
            {"InstanceType": "r6i.2xlarge", "WeightedCapacity": 2},
        ],
    },
]


def refused(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_cluster_becomes_ready_and_ends_when_told(emr: Emr) -> None:
    cluster = emr.start()

    emr.client.get_waiter("cluster_running").wait(ClusterId=cluster, WaiterConfig=FAST)
    ready = emr.await_state(cluster, "WAITING")
    emr.client.terminate_job_flows(JobFlowIds=[cluster])
    emr.client.get_waiter("cluster_terminated").wait(ClusterId=cluster, WaiterConfig=FAST)
    status = emr.cluster(cluster)["Status"]

    assert ready["Status"]["StateChangeReason"] == {"Message": "Cluster ready to run steps."}
    assert status["State"] == "TERMINATED"
    assert status["StateChangeReason"] == {
        "Code": "USER_REQUEST",
        "Message": "Terminated by user request",
    }
    times = status["Timeline"]
    assert times["CreationDateTime"] < times["ReadyDateTime"] < times["EndDateTime"]


def test_a_cluster_passes_through_all_states(emr: Emr) -> None:
    script = emr.put("slow.sh", "#!/bin/sh\nsleep 0.4\n")
    action = {"Name": "slow", "ScriptBootstrapAction": {"Path": script}}
    seen = []

    cluster = emr.start(keep=False, Steps=[bash("sleep 0.3")], BootstrapActions=[action])

    def ended() -> bool:
        state = emr.state(cluster)
        if state not in seen:
            seen.append(state)
        return state == "TERMINATED"

    until(ended, "the end")
    # TERMINATING lasts 50 ms here: it may be missed
    assert [s for s in seen if s != "TERMINATING"] == [
        "STARTING",
        "BOOTSTRAPPING",
        "RUNNING",
        "TERMINATED",
    ]


def test_a_cluster_that_is_not_kept_alive_ends_with_its_steps(emr: Emr) -> None:
    cluster = emr.start(keep=False, Steps=[bash("true")])

    status = emr.await_state(cluster, "TERMINATED")["Status"]

    assert status["StateChangeReason"]["Code"] == "ALL_STEPS_COMPLETED"
    assert emr.client.list_steps(ClusterId=cluster)["Steps"][0]["Status"]["State"] == "COMPLETED"


def test_an_idle_cluster_ends_after_its_timeout(emr: Emr) -> None:
    cluster = emr.start(AutoTerminationPolicy={"IdleTimeout": 60})

    emr.await_state(cluster, "WAITING")
    (busy,) = emr.add(cluster, "sleep 1.2")
    emr.await_step(cluster, busy)
    still_there = emr.state(cluster)
    status = emr.await_state(cluster, "TERMINATED")["Status"]

    assert still_there in ("RUNNING", "WAITING")
    assert "idle for 60 seconds" in status["StateChangeReason"]["Message"]


def test_an_idle_policy_can_be_put_read_and_removed(emr: Emr) -> None:
    cluster = emr.start()
    policy = {"IdleTimeout": 3600}

    emr.client.put_auto_termination_policy(ClusterId=cluster, AutoTerminationPolicy=policy)
    put = emr.client.get_auto_termination_policy(ClusterId=cluster)
    emr.client.remove_auto_termination_policy(ClusterId=cluster)
    removed = emr.client.get_auto_termination_policy(ClusterId=cluster)

    assert put["AutoTerminationPolicy"] == policy
    assert "AutoTerminationPolicy" not in removed


def test_a_policy_put_on_an_idle_cluster_ends_it(emr: Emr) -> None:
    cluster = emr.start()
    emr.await_state(cluster, "WAITING")

    emr.client.put_auto_termination_policy(
        ClusterId=cluster, AutoTerminationPolicy={"IdleTimeout": 60}
    )

    emr.await_state(cluster, "TERMINATED")


def test_a_protected_cluster_is_not_terminated_until_it_is_unprotected(emr: Emr) -> None:
    cluster, other = emr.start(Instances={"TerminationProtected": True}), emr.start()
    ids = [cluster, other]

    code, message = refused(emr.client.terminate_job_flows, JobFlowIds=ids)
    emr.await_state(other, "TERMINATED")
    protected = emr.cluster(cluster)
    emr.client.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=False)
    emr.client.terminate_job_flows(JobFlowIds=[cluster])

    assert code == "ValidationException"
    assert "termination protected" in message
    assert protected["TerminationProtected"] is True
    assert protected["Status"]["State"] in ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
    emr.await_state(cluster, "TERMINATED")


def test_three_primaries_force_protection_and_ignore_the_idle_policy(emr: Emr) -> None:
    cluster = emr.start(
        keep=False,
        groups=[group("MASTER", 3), group("CORE", 2)],
        Instances={"Ec2SubnetId": "subnet-any"},
        AutoTerminationPolicy={"IdleTimeout": 60},
    )

    waiting = emr.await_state(cluster, "WAITING")
    with pytest.raises(AssertionError):
        until(lambda: emr.state(cluster) != "WAITING", "an end that must not come", timeout=1.5)

    assert waiting["TerminationProtected"] is True
    assert waiting["AutoTerminate"] is False
    assert refused(emr.client.terminate_job_flows, JobFlowIds=[cluster])[0] == "ValidationException"


def test_instance_groups_are_kept_as_given(emr: Emr) -> None:
    volume = {"VolumeType": "gp3", "SizeInGB": 500}
    ebs = {
        "EbsOptimized": True,
        "EbsBlockDeviceConfigs": [{"VolumeSpecification": volume, "VolumesPerInstance": 2}],
    }
    cluster = emr.start(
        groups=[group("MASTER", 1), group("CORE", 3, Market="SPOT", EbsConfiguration=ebs)]
    )

    groups = emr.client.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
    instances = emr.client.list_instances(ClusterId=cluster, InstanceGroupTypes=["CORE"])

    core = next(g for g in groups if g["InstanceGroupType"] == "CORE")
    assert (core["RequestedInstanceCount"], core["Market"]) == (3, "SPOT")
    assert [d["VolumeSpecification"] for d in core["EbsBlockDevices"]] == [volume, volume]
    assert {i["InstanceGroupId"] for i in instances["Instances"]} == {core["Id"]}
    assert len(instances["Instances"]) == 3


def test_instance_fleets_are_kept_as_given(emr: Emr) -> None:
    cluster = emr.start(Instances={"InstanceGroups": [], "InstanceFleets": FLEET})

    fleets = emr.client.list_instance_fleets(ClusterId=cluster)["InstanceFleets"]
    instances = emr.client.list_instances(ClusterId=cluster, InstanceFleetType="CORE")["Instances"]

    core = next(f for f in fleets if f["InstanceFleetType"] == "CORE")
    assert (core["Name"], core["TargetSpotCapacity"]) == ("workers", 8)
    assert [t["InstanceType"] for t in core["InstanceTypeSpecifications"]] == [
        "r5.2xlarge",
        "r6i.2xlarge",
    ]
    assert len(instances) == 5
    assert emr.cluster(cluster)["InstanceCollectionType"] == "INSTANCE_FLEET"
    code, _ = refused(emr.client.list_instance_groups, ClusterId=cluster)
    assert code == "InvalidRequestException"


def test_a_description_gives_what_was_asked_for(emr: Emr) -> None:
    configurations = [{"Classification": "spark", "Properties": {"a": "1"}}]
    cluster = emr.start(
        Name="daily",
        Applications=[{"Name": "Spark"}, {"Name": "Hive"}],
        Configurations=configurations,
        ServiceRole="service",
        JobFlowRole="machines",
        EbsRootVolumeSize=100,
        Instances={"Ec2SubnetId": "subnet-anything-goes", "Ec2KeyName": "key"},
        Tags=[{"Key": "owner", "Value": "me"}],
    )

    found = emr.cluster(cluster)

    assert found["Name"] == "daily"
    assert {a["Name"] for a in found["Applications"] if a["Version"]} == {"Spark", "Hive"}
    assert found["Configurations"] == configurations
    assert found["ServiceRole"] == "service"
    assert found["EbsRootVolumeSize"] == 100
    assert found["Ec2InstanceAttributes"]["IamInstanceProfile"] == "machines"
    assert found["Ec2InstanceAttributes"]["Ec2SubnetId"] == "subnet-anything-goes"
    assert found["Tags"] == [{"Key": "owner", "Value": "me"}]
    # the scheme s3n and the slash are EMR's own doing
    assert found["LogUri"] == "s3n://logs-and-code/logs/"
    assert found["ClusterArn"].endswith(f":cluster/{cluster}")


def test_tags_are_added_and_removed_and_not_listed(emr: Emr) -> None:
    cluster = emr.start(Tags=[{"Key": "a", "Value": "1"}])

    emr.client.add_tags(ResourceId=cluster, Tags=[{"Key": "b", "Value": "2"}, {"Key": "c"}])
    emr.client.remove_tags(ResourceId=cluster, TagKeys=["a"])

    assert emr.cluster(cluster)["Tags"] == [
        {"Key": "b", "Value": "2"},
        {"Key": "c", "Value": ""},
    ]
    (listed,) = (c for c in emr.client.list_clusters()["Clusters"] if c["Id"] == cluster)
    assert "Tags" not in listed
    (audited,) = (c for c in emr.aws.clusters() if c["id"] == cluster)
    assert audited["tags"] == {"b": "2", "c": ""}


def test_clusters_are_listed_by_state_and_time(emr: Emr) -> None:
    old = emr.start()
    emr.await_state(old, "WAITING")
    between = datetime.now(UTC)
    new = emr.start(keep=False)
    emr.await_state(new, "TERMINATED")

    def ids(**filters: Any) -> set[str]:
        clusters = emr.client.list_clusters(**filters)["Clusters"]
        return {c["Id"] for c in clusters} & {old, new}

    assert ids() == {old, new}
    assert ids(ClusterStates=["WAITING"]) == {old}
    assert ids(ClusterStates=["TERMINATED", "WAITING"]) == {old, new}
    assert ids(CreatedAfter=between) == {new}
    assert ids(CreatedBefore=between) == {old}
    assert ids(CreatedAfter=between + timedelta(hours=1)) == set()


def test_clusters_are_listed_50_a_page(emr: Emr) -> None:
    after = datetime.now(UTC)
    made = {emr.start(keep=False) for _ in range(53)}

    first = emr.client.list_clusters(CreatedAfter=after)
    second = emr.client.list_clusters(CreatedAfter=after, Marker=first["Marker"])

    assert (len(first["Clusters"]), len(second["Clusters"])) == (50, 3)
    assert "Marker" not in second
    assert {c["Id"] for c in first["Clusters"] + second["Clusters"]} == made


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("describe_cluster", {"ClusterId": "j-NONE"}),
        ("list_steps", {"ClusterId": "j-NONE"}),
        ("describe_step", {"ClusterId": "j-NONE", "StepId": "s-NONE"}),
        ("cancel_steps", {"ClusterId": "j-NONE", "StepIds": ["s-NONE"]}),
        ("list_instances", {"ClusterId": "j-NONE"}),
        ("list_instance_groups", {"ClusterId": "j-NONE"}),
        ("list_instance_fleets", {"ClusterId": "j-NONE"}),
        ("list_bootstrap_actions", {"ClusterId": "j-NONE"}),
        ("get_auto_termination_policy", {"ClusterId": "j-NONE"}),
        ("modify_cluster", {"ClusterId": "j-NONE", "StepConcurrencyLevel": 2}),
        ("add_tags", {"ResourceId": "j-NONE", "Tags": []}),
    ],
)
def test_newer_operations_refuse_an_unknown_cluster(
    emr: Emr, operation: str, arguments: dict[str, Any]
) -> None:
    code, message = refused(getattr(emr.client, operation), **arguments)

    assert code == "InvalidRequestException"
    assert "j-NONE" in message


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("add_job_flow_steps", {"JobFlowId": "j-NONE", "Steps": [bash("true")]}),
        ("terminate_job_flows", {"JobFlowIds": ["j-NONE"]}),
        (
            "set_termination_protection",
            {"JobFlowIds": ["j-NONE"], "TerminationProtected": True},
        ),
    ],
)
def test_the_oldest_operations_refuse_an_unknown_cluster(
    emr: Emr, operation: str, arguments: dict[str, Any]
) -> None:
    code, message = refused(getattr(emr.client, operation), **arguments)

    assert (code, message) == ("ValidationException", "Specified job flow ID does not exist.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ReleaseLabel": "emr-99.0.0"}, "The supplied release label is invalid: emr-99.0.0."),
        ({"AutoTerminationPolicy": {"IdleTimeout": 59}}, "between 60 and 604800"),
        ({"AutoTerminationPolicy": {"IdleTimeout": 604801}}, "between 60 and 604800"),
        ({"StepConcurrencyLevel": 257}, "between 1 and 256"),
        ({"Instances": {"InstanceFleets": FLEET}}, "mutually exclusive"),
        ({"groups": [group("MASTER", 2)]}, "exactly 3 instances"),
        ({"groups": [group("MASTER", 3)]}, "Subnet is required"),
        ({"groups": [group("CORE", 1)]}, "Exactly one master"),
        (
            {"StepConcurrencyLevel": 2, "Steps": [bash("true", action="CANCEL_AND_WAIT")]},
            "ActionOnFailure CANCEL_AND_WAIT is not valid",
        ),
    ],
)
def test_a_cluster_that_emr_would_refuse_is_refused(
    emr: Emr, change: dict[str, Any], words: str
) -> None:
    code, message = refused(emr.start, **change)

    assert code == "ValidationException"
    assert words in message


def test_more_than_10_clusters_are_not_terminated_at_once(emr: Emr) -> None:
    code, message = refused(
        emr.client.terminate_job_flows, JobFlowIds=[f"j-{n}" for n in range(11)]
    )

    assert code == "ValidationException"
    assert "At most 10" in message


def test_what_localaws_does_not_have_is_refused_at_once(emr: Emr) -> None:
    with pytest.raises(ClientError) as caught:
        emr.client.list_studios()

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert "localaws has no emr ListStudios" in caught.value.response["Error"]["Message"]
    assert emr.aws.count("emr", "ListStudios") == 1
