"""What a stack of Batch jobs is made of: Batch itself, a table, images, machines and logs."""

from __future__ import annotations

import json
from typing import Any

from moto.core.common_models import CloudFormationModel

from localaws.cloudformation_resources import Made, Properties, flag, own_client, request_of


def _without(properties: Properties, *names: str) -> Properties:
    return {key: value for key, value in properties.items() if key not in names}


def _tags(properties: Properties) -> dict[str, str]:
    """Return a list of Key and Value as a dictionary."""
    return {one["Key"]: str(one["Value"]) for one in properties.get("Tags") or []}


class BatchMade(Made):
    """A resource of Batch, tagged by a map; ``Ref`` gives its ARN."""

    def _request(self, operation: str, properties: Properties) -> Properties:
        return request_of("batch", operation, self.KIND, properties)

    def settle(self, properties: Properties) -> None:
        """Make its tags those of the template."""
        batch = own_client("batch")
        tags = {key: str(value) for key, value in (properties.get("Tags") or {}).items()}
        found = batch.list_tags_for_resource(resourceArn=self.ref)["tags"]
        dropped = sorted(set(found) - set(tags))
        if dropped:
            batch.untag_resource(resourceArn=self.ref, tagKeys=dropped)
        if tags:
            batch.tag_resource(resourceArn=self.ref, tags=tags)


class ComputeEnvironment(BatchMade, CloudFormationModel):
    """AWS::Batch::ComputeEnvironment."""

    KIND = "AWS::Batch::ComputeEnvironment"
    NAME = "ComputeEnvironmentName"
    HONOURED = frozenset(
        {
            "ComputeEnvironmentName",
            "ComputeResources",
            # both say how an update treats what runs, which here goes on in any case
            "ReplaceComputeEnvironment",
            "UpdatePolicy",
            "ServiceRole",
            "State",
            "Tags",
            "Type",
        }
    )
    FIXED = frozenset({"Type"})
    _ONLY_HERE = ("ReplaceComputeEnvironment", "UpdatePolicy", "Tags")

    def make(self) -> None:
        """Make it."""
        properties = {**_without(self.properties, *self._ONLY_HERE), self.NAME: self.name}
        request = self._request("CreateComputeEnvironment", properties)
        made = own_client("batch").create_compute_environment(**request)
        self.ref = self.attributes["ComputeEnvironmentArn"] = made["computeEnvironmentArn"]

    def change(self, properties: Properties) -> None:
        """Change what is not fixed."""
        changed = _without(properties, *self._ONLY_HERE, "Type", self.NAME)
        request = self._request("UpdateComputeEnvironment", changed)
        own_client("batch").update_compute_environment(computeEnvironment=self.name, **request)

    def remove(self) -> None:
        """Disable and remove it."""
        batch = own_client("batch")
        found = batch.describe_compute_environments(computeEnvironments=[self.name])
        if found["computeEnvironments"]:
            batch.update_compute_environment(computeEnvironment=self.name, state="DISABLED")
            batch.delete_compute_environment(computeEnvironment=self.name)


class JobQueue(BatchMade, CloudFormationModel):
    """AWS::Batch::JobQueue."""

    KIND = "AWS::Batch::JobQueue"
    NAME = "JobQueueName"
    HONOURED = frozenset(
        {
            "ComputeEnvironmentOrder",
            "JobQueueName",
            "Priority",
            "State",
            "Tags",
        }
    )

    def make(self) -> None:
        """Make it."""
        properties = {**_without(self.properties, "Tags"), self.NAME: self.name}
        request = self._request("CreateJobQueue", properties)
        self.ref = own_client("batch").create_job_queue(**request)["jobQueueArn"]
        self.attributes["JobQueueArn"] = self.ref

    def change(self, properties: Properties) -> None:
        """Change it; jobs that wait in it stay."""
        request = self._request("UpdateJobQueue", _without(properties, "Tags", self.NAME))
        own_client("batch").update_job_queue(jobQueue=self.name, **request)

    def remove(self) -> None:
        """Disable and remove it."""
        batch = own_client("batch")
        if batch.describe_job_queues(jobQueues=[self.name])["jobQueues"]:
            batch.update_job_queue(jobQueue=self.name, state="DISABLED")
            batch.delete_job_queue(jobQueue=self.name)


class JobDefinition(BatchMade, CloudFormationModel):
    """AWS::Batch::JobDefinition: each change is another revision, and the old one is retired."""

    KIND = "AWS::Batch::JobDefinition"
    NAME = "JobDefinitionName"
    HONOURED = frozenset(
        {
            "ContainerProperties",
            "JobDefinitionName",
            "Parameters",
            "PlatformCapabilities",
            "PropagateTags",
            "RetryStrategy",
            "SchedulingPriority",
            "Tags",
            "Timeout",
            "Type",
        }
    )

    def make(self) -> None:
        """Register a revision."""
        self._register(self.properties)

    def change(self, properties: Properties) -> None:
        """Register another revision."""
        old = self.ref
        self._register(properties)
        own_client("batch").deregister_job_definition(jobDefinition=old)

    def remove(self) -> None:
        """Retire the revision."""
        own_client("batch").deregister_job_definition(jobDefinition=self.ref)

    def _register(self, properties: Properties) -> None:
        given = {**_without(properties, "Tags"), self.NAME: self.name}
        request = self._request("RegisterJobDefinition", given)
        made = own_client("batch").register_job_definition(**request)
        self.ref = self.attributes["JobDefinitionArn"] = made["jobDefinitionArn"]


class Table(Made, CloudFormationModel):
    """AWS::DynamoDB::Table."""

    KIND = "AWS::DynamoDB::Table"
    NAME = "TableName"
    _CREATE = frozenset(
        {
            "AttributeDefinitions",
            "BillingMode",
            "DeletionProtectionEnabled",
            "GlobalSecondaryIndexes",
            "KeySchema",
            "LocalSecondaryIndexes",
            "ProvisionedThroughput",
            "SSESpecification",
            "StreamSpecification",
            "TableName",
        }
    )
    HONOURED = _CREATE | {"PointInTimeRecoverySpecification", "Tags", "TimeToLiveSpecification"}
    # DynamoDB could change some of these; nobody has needed it here
    FIXED = _CREATE - {"TableName"}

    def make(self) -> None:
        """Make the table, empty."""
        given = {key: value for key, value in self.properties.items() if key in self._CREATE}
        request = request_of("dynamodb", "CreateTable", self.KIND, {**given, self.NAME: self.name})
        made = own_client("dynamodb").create_table(**request)["TableDescription"]
        self.attributes["Arn"] = made["TableArn"]
        if "LatestStreamArn" in made:
            self.attributes["StreamArn"] = made["LatestStreamArn"]

    def change(self, properties: Properties) -> None:
        """Leave the table itself; :meth:`settle` does the rest."""

    def settle(self, properties: Properties) -> None:
        """Set recovery, expiry and tags."""
        dynamodb = own_client("dynamodb")
        recovery = properties.get("PointInTimeRecoverySpecification") or {}
        dynamodb.update_continuous_backups(
            TableName=self.name,
            PointInTimeRecoverySpecification={
                "PointInTimeRecoveryEnabled": flag(recovery.get("PointInTimeRecoveryEnabled"))
            },
        )
        expiry = properties.get("TimeToLiveSpecification")
        if expiry:
            given = {"TableName": self.name, "TimeToLiveSpecification": expiry}
            request = request_of("dynamodb", "UpdateTimeToLive", self.KIND, given)
            dynamodb.update_time_to_live(**request)
        tags = [{"Key": key, "Value": value} for key, value in _tags(properties).items()]
        dropped = sorted(set(_tags(self.properties)) - set(_tags(properties)))
        if dropped:
            dynamodb.untag_resource(ResourceArn=self.attributes["Arn"], TagKeys=dropped)
        if tags:
            dynamodb.tag_resource(ResourceArn=self.attributes["Arn"], Tags=tags)

    def remove(self) -> None:
        """Remove it with its items."""
        own_client("dynamodb").delete_table(TableName=self.name)


class Repository(Made, CloudFormationModel):
    """AWS::ECR::Repository."""

    KIND = "AWS::ECR::Repository"
    NAME = "RepositoryName"
    HONOURED = frozenset(
        {
            "EncryptionConfiguration",
            "ImageScanningConfiguration",
            "ImageTagMutability",
            "LifecyclePolicy",
            "RepositoryName",
            "Tags",
        }
    )
    FIXED = frozenset({"EncryptionConfiguration"})

    def make(self) -> None:
        """Make it, empty."""
        given = {**_without(self.properties, "LifecyclePolicy", "Tags"), self.NAME: self.name}
        request = request_of("ecr", "CreateRepository", self.KIND, given)
        made = own_client("ecr").create_repository(**request)["repository"]
        self.attributes = {"Arn": made["repositoryArn"], "RepositoryUri": made["repositoryUri"]}

    def change(self, properties: Properties) -> None:
        """Change what has operations of its own."""
        ecr = own_client("ecr")
        ecr.put_image_tag_mutability(
            repositoryName=self.name,
            imageTagMutability=properties.get("ImageTagMutability", "MUTABLE"),
        )
        scanning = properties.get("ImageScanningConfiguration") or {}
        ecr.put_image_scanning_configuration(
            repositoryName=self.name,
            imageScanningConfiguration={"scanOnPush": flag(scanning.get("ScanOnPush"))},
        )

    def settle(self, properties: Properties) -> None:
        """Set the lifecycle policy and the tags."""
        ecr, arn = own_client("ecr"), self.attributes["Arn"]
        policy = (properties.get("LifecyclePolicy") or {}).get("LifecyclePolicyText")
        if policy:
            ecr.put_lifecycle_policy(
                repositoryName=self.name, lifecyclePolicyText=json.dumps(json.loads(policy))
            )
        elif self.properties.get("LifecyclePolicy") and properties is not self.properties:
            ecr.delete_lifecycle_policy(repositoryName=self.name)
        tags = [{"Key": key, "Value": value} for key, value in _tags(properties).items()]
        dropped = sorted(set(_tags(self.properties)) - set(_tags(properties)))
        if dropped:
            ecr.untag_resource(resourceArn=arn, tagKeys=dropped)
        if tags:
            ecr.tag_resource(resourceArn=arn, tags=tags)

    def remove(self) -> None:
        """Remove it; CloudFormation refuses that while images are in it."""
        own_client("ecr").delete_repository(repositoryName=self.name)


class LaunchTemplate(Made, CloudFormationModel):
    """AWS::EC2::LaunchTemplate: each change is another version."""

    KIND = "AWS::EC2::LaunchTemplate"
    NAME = "LaunchTemplateName"
    HONOURED = frozenset({"LaunchTemplateData", "LaunchTemplateName", "VersionDescription"})

    def make(self) -> None:
        """Make it with one version."""
        given = {**self.properties, self.NAME: self.name}
        request = request_of("ec2", "CreateLaunchTemplate", self.KIND, given)
        self._take_over(own_client("ec2").create_launch_template(**request)["LaunchTemplate"])

    def change(self, properties: Properties) -> None:
        """Make another version."""
        ec2 = own_client("ec2")
        given = {**_without(properties, self.NAME), "LaunchTemplateId": self.ref}
        request = request_of("ec2", "CreateLaunchTemplateVersion", self.KIND, given)
        ec2.create_launch_template_version(**request)
        (found,) = ec2.describe_launch_templates(LaunchTemplateIds=[self.ref])["LaunchTemplates"]
        self._take_over(found)

    def remove(self) -> None:
        """Remove it with its versions."""
        own_client("ec2").delete_launch_template(LaunchTemplateId=self.ref)

    def _take_over(self, found: dict[str, Any]) -> None:
        self.ref = self.attributes["LaunchTemplateId"] = found["LaunchTemplateId"]
        for name in ("DefaultVersionNumber", "LatestVersionNumber"):
            self.attributes[name] = str(found[name])


class LogGroup(Made, CloudFormationModel):
    """AWS::Logs::LogGroup."""

    KIND = "AWS::Logs::LogGroup"
    NAME = "LogGroupName"
    HONOURED = frozenset({"KmsKeyId", "LogGroupName", "RetentionInDays", "Tags"})
    FIXED = frozenset({"KmsKeyId"})

    def make(self) -> None:
        """Make it, empty."""
        given = {**_without(self.properties, "RetentionInDays", "Tags"), self.NAME: self.name}
        request = request_of("logs", "CreateLogGroup", self.KIND, given)
        logs = own_client("logs")
        logs.create_log_group(**request)
        found = logs.describe_log_groups(logGroupNamePrefix=self.name)["logGroups"]
        self.attributes["Arn"] = next(g["arn"] for g in found if g["logGroupName"] == self.name)

    def change(self, properties: Properties) -> None:
        """Leave the group itself; :meth:`settle` does the rest."""

    def settle(self, properties: Properties) -> None:
        """Set retention and tags."""
        logs = own_client("logs")
        days = properties.get("RetentionInDays")
        if days:
            logs.put_retention_policy(logGroupName=self.name, retentionInDays=int(days))
        elif self.properties.get("RetentionInDays"):
            logs.delete_retention_policy(logGroupName=self.name)
        dropped = sorted(set(_tags(self.properties)) - set(_tags(properties)))
        if dropped:
            logs.untag_log_group(logGroupName=self.name, tags=dropped)
        if _tags(properties):
            logs.tag_log_group(logGroupName=self.name, tags=_tags(properties))

    def remove(self) -> None:
        """Remove it with what is in it."""
        own_client("logs").delete_log_group(logGroupName=self.name)


MODELS: tuple[type[Made], ...] = (
    ComputeEnvironment,
    JobQueue,
    JobDefinition,
    Table,
    Repository,
    LaunchTemplate,
    LogGroup,
)
