"""Templates with Batch jobs and what they need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws.process import LocalAws
from tests.localaws.conftest import Batch

NAME = "cfn"
DOCUMENT = {"Version": "2012-10-17"}
EXPIRE = {
    "rules": [
        {
            "rulePriority": 1,
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 14,
            },
            "action": {"type": "expire"},
        }
    ]
}


def resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::{kind}", "Properties": properties}


def template(*, vcpus: int = 4, command: str = "one", days: int = 7) -> dict[str, Any]:
    trust = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "ecs-tasks.amazonaws.com"},
    }
    managed = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
    container = {
        "Image": "local/any",
        "Command": ["echo", {"Ref": "Word"}],
        "JobRoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
        "Environment": [{"Name": "A", "Value": "b"}],
        # as a template's parameters come: strings
        "ResourceRequirements": [
            {"Type": "VCPU", "Value": 1},
            {"Type": "MEMORY", "Value": "200"},
        ],
        "ReadonlyRootFilesystem": "true",
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {"awslogs-group": {"Ref": "Logs"}},
        },
    }
    return {
        "Parameters": {
            "Subnets": {"Type": "List<AWS::EC2::Subnet::Id>", "Default": "subnet-1,subnet-2"},
            "Word": {"Type": "String", "Default": command},
        },
        "Resources": {
            "Table": resource(
                "DynamoDB::Table",
                TableName=f"{NAME}-reads",
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[
                    {"AttributeName": "sample", "AttributeType": "S"},
                    {"AttributeName": "status", "AttributeType": "N"},
                ],
                KeySchema=[{"AttributeName": "sample", "KeyType": "HASH"}],
                GlobalSecondaryIndexes=[
                    {
                        "IndexName": "status-index",
                        "KeySchema": [{"AttributeName": "status", "KeyType": "HASH"}],
                        "Projection": {"ProjectionType": "ALL"},
                    }
                ],
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": "true"},
                TimeToLiveSpecification={"AttributeName": "until", "Enabled": True},
                Tags=[{"Key": "a", "Value": "b"}],
            ),
            "Images": resource(
                "ECR::Repository",
                RepositoryName=f"{NAME}/images",
                ImageTagMutability="IMMUTABLE",
                ImageScanningConfiguration={"ScanOnPush": "true"},
                LifecyclePolicy={"LifecyclePolicyText": json.dumps(EXPIRE)},
            ),
            "Role": resource(
                "IAM::Role",
                RoleName=f"{NAME}-job",
                AssumeRolePolicyDocument={**DOCUMENT, "Statement": [trust]},
                ManagedPolicyArns=[managed],
            ),
            "Machines": resource(
                "EC2::LaunchTemplate",
                LaunchTemplateName=f"{NAME}-machines",
                LaunchTemplateData={
                    "BlockDeviceMappings": [
                        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": "200"}}
                    ],
                    "MetadataOptions": {"HttpTokens": "required"},
                },
            ),
            "Logs": resource("Logs::LogGroup", LogGroupName=f"/{NAME}", RetentionInDays=days),
            "Environment": resource(
                "Batch::ComputeEnvironment",
                ComputeEnvironmentName=f"{NAME}-spot",
                Type="MANAGED",
                State="ENABLED",
                ReplaceComputeEnvironment=False,
                ComputeResources={
                    "Type": "SPOT",
                    "MaxvCpus": str(vcpus),
                    "MinvCpus": 0,
                    "InstanceTypes": ["r6g"],
                    "Subnets": {"Ref": "Subnets"},
                    "SecurityGroupIds": ["sg-1"],
                    "Tags": {"Name": "machine"},
                    "LaunchTemplate": {
                        "LaunchTemplateId": {"Ref": "Machines"},
                        "Version": {"Fn::GetAtt": ["Machines", "LatestVersionNumber"]},
                    },
                },
                Tags={"a": "b"},
            ),
            "Queue": resource(
                "Batch::JobQueue",
                JobQueueName=f"{NAME}-queue",
                Priority="3",
                ComputeEnvironmentOrder=[
                    {"Order": 1, "ComputeEnvironment": {"Ref": "Environment"}}
                ],
            ),
            "Definition": resource(
                "Batch::JobDefinition",
                JobDefinitionName=f"{NAME}-job",
                Type="container",
                PlatformCapabilities=["EC2"],
                RetryStrategy={
                    "Attempts": 3,
                    "EvaluateOnExit": [{"OnReason": "*", "Action": "EXIT"}],
                },
                Timeout={"AttemptDurationSeconds": "600"},
                ContainerProperties=container,
                PropagateTags=True,
            ),
        },
        "Outputs": {
            "Table": {"Value": {"Fn::GetAtt": ["Table", "Arn"]}},
            "Repository": {"Value": {"Fn::GetAtt": ["Images", "RepositoryUri"]}},
            "Definition": {"Value": {"Ref": "Definition"}},
        },
    }


def deploy(aws: LocalAws, body: dict[str, Any], *, update: bool = False) -> dict[str, str]:
    client = aws.client("cloudformation", retries={"total_max_attempts": 1})
    action = client.update_stack if update else client.create_stack
    action(StackName=NAME, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_NAMED_IAM"])
    (stack,) = client.describe_stacks(StackName=NAME)["Stacks"]
    return {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}


def test_a_stack_of_jobs_is_made_changed_and_removed(batch: Batch) -> None:
    aws = batch.aws
    dynamodb, ecr, ec2 = (aws.client(service) for service in ("dynamodb", "ecr", "ec2"))

    outputs = deploy(aws, template())
    table = dynamodb.describe_table(TableName=f"{NAME}-reads")["Table"]
    backups = dynamodb.describe_continuous_backups(TableName=f"{NAME}-reads")
    expiry = dynamodb.describe_time_to_live(TableName=f"{NAME}-reads")
    (repository,) = ecr.describe_repositories(repositoryNames=[f"{NAME}/images"])["repositories"]
    (environment,) = batch.client.describe_compute_environments(
        computeEnvironments=[f"{NAME}-spot"]
    )["computeEnvironments"]
    (definition,) = batch.client.describe_job_definitions(jobDefinitionName=f"{NAME}-job")[
        "jobDefinitions"
    ]
    job = batch.succeeded(batch.submit(jobQueue=f"{NAME}-queue", jobDefinition=f"{NAME}-job"))
    printed = batch.printed(job, f"/{NAME}")

    assert printed == ["one"]
    assert outputs["Table"] == table["TableArn"]
    assert outputs["Repository"] == repository["repositoryUri"]
    assert outputs["Definition"] == definition["jobDefinitionArn"]
    assert table["GlobalSecondaryIndexes"][0]["IndexName"] == "status-index"
    assert "ENABLED" in json.dumps(backups["ContinuousBackupsDescription"], default=str)
    assert expiry["TimeToLiveDescription"]["AttributeName"] == "until"
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    found = json.loads(
        ecr.get_lifecycle_policy(repositoryName=f"{NAME}/images")["lifecyclePolicyText"]
    )
    assert found == EXPIRE
    resources = environment["computeResources"]
    assert (resources["maxvCpus"], resources["subnets"]) == (4, ["subnet-1", "subnet-2"])
    assert resources["launchTemplate"]["version"] == "1"
    assert resources["tags"] == {"Name": "machine"}
    assert environment["tags"] == {"a": "b"}
    container = definition["containerProperties"]
    assert container["readonlyRootFilesystem"] is True
    assert container["environment"] == [{"name": "A", "value": "b"}]
    assert definition["timeout"] == {"attemptDurationSeconds": 600}
    assert definition["retryStrategy"]["evaluateOnExit"] == [{"onReason": "*", "action": "EXIT"}]

    changed = deploy(aws, template(vcpus=8, command="two", days=30), update=True)
    (environment,) = batch.client.describe_compute_environments(
        computeEnvironments=[f"{NAME}-spot"]
    )["computeEnvironments"]
    (group,) = aws.client("logs").describe_log_groups(logGroupNamePrefix=f"/{NAME}")["logGroups"]
    again = batch.succeeded(batch.submit(jobQueue=f"{NAME}-queue", jobDefinition=f"{NAME}-job"))

    assert batch.printed(again, f"/{NAME}") == ["two"]
    assert changed["Definition"].endswith(":2")
    assert environment["computeResources"]["maxvCpus"] == 8
    assert group["retentionInDays"] == 30

    aws.client("cloudformation").delete_stack(StackName=NAME)
    assert f"{NAME}-reads" not in dynamodb.list_tables()["TableNames"]
    assert batch.client.describe_job_queues(jobQueues=[f"{NAME}-queue"])["jobQueues"] == []
    names = [
        one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]
    ]
    assert f"{NAME}-machines" not in names


def test_a_nested_property_that_nobody_would_take_is_named(batch: Batch) -> None:
    body = template()
    resources = body["Resources"]["Environment"]["Properties"]["ComputeResources"]
    resources["MaxvCpu"] = 3

    with pytest.raises(
        ClientError, match=r"AWS::Batch::ComputeEnvironment\.ComputeResources\.MaxvCpu\b"
    ):
        deploy(batch.aws, body)

    assert f"{NAME}-reads" not in batch.aws.client("dynamodb").list_tables()["TableNames"]
    assert batch.client.describe_job_queues(jobQueues=[f"{NAME}-queue"])["jobQueues"] == []


def test_a_key_of_a_table_cannot_be_changed_in_silence(batch: Batch) -> None:
    aws = batch.aws
    body = template()
    body["Resources"] = {"Table": body["Resources"]["Table"]}
    del body["Outputs"]
    client = aws.client("cloudformation", retries={"total_max_attempts": 1})
    client.create_stack(StackName="key", TemplateBody=json.dumps(body))
    table = body["Resources"]["Table"]["Properties"]
    table["AttributeDefinitions"][0]["AttributeName"] = "other"
    table["KeySchema"][0]["AttributeName"] = "other"

    with pytest.raises(ClientError, match="KeySchema needs another TableName"):
        client.update_stack(StackName="key", TemplateBody=json.dumps(body))

    client.delete_stack(StackName="key")
