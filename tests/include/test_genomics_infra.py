"""The stack that samples are mapped on: as published where that was right, and safe elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aws_jobs.settings import GenomicsSettings
from localaws.seed import read_template

INCLUDE = Path(__file__).resolve().parents[2] / "include"
INFRA, GENOMICS = INCLUDE / "infra", INCLUDE / "genomics"
TEMPLATE = read_template((INFRA / "genomics.yaml").read_text())
OWN = {"Ref": "DeploymentId"}


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a type, by the end of their physical name."""
    found = [each["Properties"] for each in TEMPLATE["Resources"].values() if each["Type"] == kind]
    named = {
        str(value["Fn::Sub"]).removeprefix("${DeploymentId}-"): properties
        for properties in found
        for key, value in properties.items()
        if key.endswith("Name")
    }
    assert len(named) == len(found)
    return named


def default(name: str) -> Any:
    return TEMPLATE["Parameters"][name]["Default"]


def statements(template: dict[str, Any], resource: str) -> dict[str, dict[str, Any]]:
    properties = template["Resources"][resource]["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
    return {entry["Sid"]: entry for document in documents for entry in document["Statement"]}


def places(entry: dict[str, Any]) -> set[str]:
    """What a statement allows to touch, without the part that all ARNs of a service share."""
    resources = entry["Resource"] if isinstance(entry["Resource"], list) else [entry["Resource"]]
    return {str(each.get("Fn::Sub", each)).rsplit(":", 1)[-1] for each in resources}


# The published environment, queue, job definition and launch template.


@pytest.mark.parametrize(("arch", "family"), [("graviton", "r6g"), ("x86", "r5")])
def test_environments_start_from_nothing_and_hold_forty_jobs(arch, family):
    environments = of_type("AWS::Batch::ComputeEnvironment")

    for kind in ("spot", "on-demand"):
        environment = environments[f"mapping-{arch}-{kind}"]
        assert (environment["Type"], environment["State"]) == ("MANAGED", "ENABLED")
        resources = environment["ComputeResources"]
        assert resources["InstanceTypes"] == [family]
        assert (resources["MinvCpus"], resources["MaxvCpus"]) == (0, {"Ref": "MaxvCpus"})
        assert "DesiredvCpus" not in resources
        assert resources["Tags"]["aws-jobs:deployment"] == OWN
    assert default("MaxvCpus") == 2560 == 40 * default("MappingVcpus")


def test_a_job_takes_a_whole_16xlarge():
    jobs = of_type("AWS::Batch::JobDefinition")

    for name in ("mapping-graviton", "mapping-x86"):
        assert jobs[name]["PlatformCapabilities"] == ["EC2"]
        assert jobs[name]["ContainerProperties"]["ResourceRequirements"] == [
            {"Type": "VCPU", "Value": {"Ref": "MappingVcpus"}},
            {"Type": "MEMORY", "Value": {"Ref": "MappingMemoryMiB"}},
        ]
    assert (default("MappingVcpus"), default("MappingMemoryMiB")) == (64, 500_000)


def test_a_machine_has_200_gib_of_gp3_encrypted():
    (template,) = of_type("AWS::EC2::LaunchTemplate").values()

    (disk,) = template["LaunchTemplateData"]["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/xvda"
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["VolumeSize"]) == ("gp3", {"Ref": "VolumeGiB"})
    assert disk["Ebs"]["Encrypted"] is disk["Ebs"]["DeleteOnTermination"] is True
    assert default("VolumeGiB") == 200


def test_the_agent_is_off_and_records_memory_and_swap_each_30_seconds_when_it_is_on():
    assert default("CloudWatchAgent") == "false"
    (template,) = of_type("AWS::EC2::LaunchTemplate").values()
    condition, script, nothing = template["LaunchTemplateData"]["UserData"]["Fn::If"]
    assert (condition, nothing) == ("AgentWanted", {"Ref": "AWS::NoValue"})
    text = script["Fn::Base64"]
    assert text.startswith("MIME-Version: 1.0\nContent-Type: multipart/mixed")
    config = json.loads(re.search(r"<<'JSON'\n(.*?)\nJSON\n", text, re.DOTALL)[1])
    assert config["agent"] == {"metrics_collection_interval": 30, "run_as_user": "root"}
    assert config["metrics"]["metrics_collected"] == {
        "mem": {"measurement": ["mem_used_percent"], "metrics_collection_interval": 30},
        "swap": {"measurement": ["swap_used_percent"], "metrics_collection_interval": 30},
    }
    policies = of_type("AWS::IAM::Role")["mapping-instance"]["Policies"]["Fn::If"]
    assert (policies[0], policies[2]) == ("AgentWanted", {"Ref": "AWS::NoValue"})


# What the published stack left out, or got wrong.


def test_spot_comes_first_and_on_demand_alone_is_a_queue_of_its_own():
    environments = {
        name: str(properties["ComputeEnvironmentName"]["Fn::Sub"]).removeprefix("${DeploymentId}-")
        for name, resource in TEMPLATE["Resources"].items()
        if "ComputeEnvironmentName" in (properties := resource["Properties"])
    }
    queues = {}
    for name, queue in of_type("AWS::Batch::JobQueue").items():
        order = {
            each["Order"]: each["ComputeEnvironment"] for each in queue["ComputeEnvironmentOrder"]
        }
        queues[name] = [environments[order[place]["Ref"]] for place in sorted(order)]
        assert (queue["State"], queue["Priority"]) == ("ENABLED", 1)

    assert queues == {
        "mapping-graviton": ["mapping-graviton-spot", "mapping-graviton-on-demand"],
        "mapping-graviton-on-demand": ["mapping-graviton-on-demand"],
        "mapping-x86": ["mapping-x86-spot", "mapping-x86-on-demand"],
        "mapping-x86-on-demand": ["mapping-x86-on-demand"],
    }
    for name, environment in of_type("AWS::Batch::ComputeEnvironment").items():
        spot = name.endswith("-spot")
        resources = environment["ComputeResources"]
        assert resources["Type"] == ("SPOT" if spot else "EC2")
        assert resources["AllocationStrategy"] == (
            "SPOT_PRICE_CAPACITY_OPTIMIZED" if spot else "BEST_FIT_PROGRESSIVE"
        )


def test_environments_are_changed_in_place_when_their_machines_change():
    for environment in of_type("AWS::Batch::ComputeEnvironment").values():
        # Only the service-linked role lets Batch do so, and it is used where none is named.
        assert "ServiceRole" not in environment
        assert environment["ReplaceComputeEnvironment"] is False
        assert environment["ComputeResources"]["LaunchTemplate"] == {
            "LaunchTemplateId": {"Ref": "LaunchTemplate"},
            "Version": {"Fn::GetAtt": ["LaunchTemplate", "LatestVersionNumber"]},
        }


def test_only_a_lost_machine_is_retried_by_batch_and_every_attempt_has_an_end():
    for job in of_type("AWS::Batch::JobDefinition").values():
        assert job["RetryStrategy"] == {
            "Attempts": 3,
            "EvaluateOnExit": [
                {"OnStatusReason": "Host EC2*", "Action": "RETRY"},
                {"OnReason": "*", "Action": "EXIT"},
            ],
        }
        assert job["Timeout"] == {"AttemptDurationSeconds": {"Ref": "AttemptSeconds"}}
        assert job["PropagateTags"] is True


def test_jobs_are_told_where_their_list_is_and_nothing_else():
    commands = {
        name: job["ContainerProperties"]["Command"]
        for name, job in of_type("AWS::Batch::JobDefinition").items()
    }

    assert commands == {
        "mapping-graviton": ["map-sample", "Ref::manifest"],
        "mapping-x86": ["map-sample", "Ref::manifest"],
        "merge-coverage": ["merge-coverage", "Ref::manifest"],
    }


def test_jobs_have_no_rights_on_their_machine():
    for job in of_type("AWS::Batch::JobDefinition").values():
        container = job["ContainerProperties"]
        assert container["Privileged"] is False
        assert container["ReadonlyRootFilesystem"] is True
        assert container["Image"] == {"Ref": "MappingImage"}
        assert container["LogConfiguration"]["LogDriver"] == "awslogs"
    (template,) = of_type("AWS::EC2::LaunchTemplate").values()
    # One hop: a container gets no answer from the metadata service, and not the machine's role.
    assert template["LaunchTemplateData"]["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }


def test_jobs_write_where_the_image_lets_its_user_write():
    lines = (GENOMICS / "Dockerfile").read_text().splitlines()
    said = dict(line.split(" ", 1) for line in lines if line.startswith(("USER ", "WORKDIR ")))

    for job in of_type("AWS::Batch::JobDefinition").values():
        container = job["ContainerProperties"]
        assert container["User"] == said["USER"] != "0:0"
        mounts = {each["SourceVolume"]: each["ContainerPath"] for each in container["MountPoints"]}
        assert mounts == {"scratch": said["WORKDIR"], "tmp": "/tmp"}
        assert container["Volumes"] == [{"Name": name} for name in mounts]


def test_a_job_reads_inputs_writes_results_and_updates_the_table():
    found = statements(TEMPLATE, "JobRole")

    assert {sid: entry["Action"] for sid, entry in found.items()} == {
        "ReadInputs": "s3:GetObject",
        "ReadAndWriteResults": [
            "s3:AbortMultipartUpload",
            "s3:GetObject",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
        ],
        "ListOwnPrefixes": "s3:ListBucket",
        "WriteStatus": "dynamodb:UpdateItem",
    }
    assert places(found["ReadInputs"]) == {"${BucketName}/source/*", "${BucketName}/ref_data/*"}
    assert places(found["ReadAndWriteResults"]) == {
        "${BucketName}/results/*",
        "${BucketName}/benchmarks/*",
    }
    assert found["WriteStatus"]["Resource"] == {"Fn::GetAtt": ["SamplesTable", "Arn"]}


def test_only_this_account_s_tasks_can_act_as_a_job():
    role = of_type("AWS::IAM::Role")["mapping-job"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]

    assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
    assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


def test_the_table_is_found_by_status_and_can_be_restored():
    resource = TEMPLATE["Resources"]["SamplesTable"]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
    table = resource["Properties"]
    assert table["KeySchema"] == [{"AttributeName": "sample", "KeyType": "HASH"}]
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    # The published one took text and wrote numbers, so that `status = 0` found nothing.
    assert types == {"sample": "S", "status": "N"}
    (index,) = table["GlobalSecondaryIndexes"]
    assert index == {
        "IndexName": "status-index",
        "KeySchema": [{"AttributeName": "status", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
    }
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert default("SamplesTableName") == "reads"


def test_an_image_s_tag_is_never_moved_and_images_are_scanned():
    repository = TEMPLATE["Resources"]["MappingRepository"]["Properties"]

    assert repository["ImageTagMutability"] == "IMMUTABLE"
    assert repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
    (rule,) = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    assert rule["selection"]["tagStatus"] == "untagged"


def test_the_output_is_the_settings_part_as_it_is_pasted():
    text = TEMPLATE["Outputs"]["Genomics"]["Value"]["Fn::Sub"]
    values = {
        "DeploymentId": "prod",
        "SamplesTable": "prod-reads",
        "MappingVcpus": str(default("MappingVcpus")),
        "MappingMemoryMiB": str(default("MappingMemoryMiB")),
    }
    written = json.loads(re.sub(r"\$\{([^}]+)\}", lambda name: values[name[1]], text))

    settings = GenomicsSettings.model_validate(written)

    names = {queue for queues in settings.queues.values() for queue in queues}
    assert names == {f"prod-{name}" for name in of_type("AWS::Batch::JobQueue")}
    jobs = {*settings.job_definitions.values(), settings.merge_job_definition}
    assert jobs == {f"prod-{name}" for name in of_type("AWS::Batch::JobDefinition")}
    assert settings.merge_queue in names
    assert (settings.vcpus, settings.memory_mib) == (64, 500_000)


# What Airflow may do to it.


def airflow(sid: str) -> dict[str, Any]:
    template = read_template((INFRA / "airflow.yaml").read_text())
    return statements(template, "GenomicsPolicy")[sid]


def test_airflow_submits_tagged_jobs_to_this_stack_s_queues_only():
    submit = airflow("SubmitTaggedJobs")

    assert submit["Condition"] == {"StringEquals": {"aws:RequestTag/aws-jobs:deployment": OWN}}
    allowed = {place for place in places(submit) if not place.startswith("job/")}
    assert allowed == {
        "job-queue/${DeploymentId}-mapping-*",
        "job-definition/${DeploymentId}-mapping-*",
        "job-definition/${DeploymentId}-merge-coverage*",
    }
    names = [f"job-queue/${{DeploymentId}}-{name}" for name in of_type("AWS::Batch::JobQueue")]
    names += [
        f"job-definition/${{DeploymentId}}-{name}" for name in of_type("AWS::Batch::JobDefinition")
    ]
    assert all(any(re.match(re.escape(p).replace(r"\*", ".*"), n) for p in allowed) for n in names)


def test_airflow_ends_own_jobs_only_and_takes_over_none_by_tagging_it():
    own = {"StringEquals": {"aws:ResourceTag/aws-jobs:deployment": OWN}}
    assert airflow("EndOwnJobs")["Condition"] == own
    tag = airflow("TagNewJobs")["Condition"]
    assert tag["Null"] == {"aws:ResourceTag/aws-jobs:deployment": "true"}


def test_airflow_never_removes_a_sample_or_an_object():
    actions = {
        action
        for sid in ("KeepSampleTable", "ReadAndWriteBesideResults")
        for action in airflow(sid)["Action"]
    }

    assert not [action for action in actions if "Delete" in action or "PutItem" in action]
    assert places(airflow("KeepSampleTable")) == {
        "table/${DeploymentId}-${SamplesTableName}",
        "table/${DeploymentId}-${SamplesTableName}/index/status-index",
    }
