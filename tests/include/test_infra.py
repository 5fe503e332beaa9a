from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aws_jobs.settings import Settings
from localaws.seed import read_template

INFRA = Path(__file__).resolve().parents[2] / "include" / "infra"
TEMPLATES = sorted(INFRA.glob("*.yaml"))
# None knows a resource: https://docs.aws.amazon.com/service-authorization/latest/reference/
WITHOUT_RESOURCE = {
    "batch:DescribeComputeEnvironments",
    "batch:DescribeJobDefinitions",
    "batch:DescribeJobQueues",
    "batch:DescribeJobs",
    "batch:ListJobs",
    "cloudwatch:PutMetricData",
    "ec2:DescribeInstanceTypes",
    "elasticmapreduce:ListClusters",
    "elasticmapreduce:RunJobFlow",
}
# The one service principal of ours that has no other name in China.
EVERYWHERE = "ecs-tasks.amazonaws.com"
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html, without white space
POLICY_LENGTH = 6144
LONGEST = {
    "DeploymentId": 32,
    "BucketName": 63,
    "LogPrefix": 40,
    "CodePrefix": 40,
    "SamplesTableName": 64,
    "AWS::Partition": 10,
    "AWS::Region": 14,
    "AWS::AccountId": 12,
    "AWS::URLSuffix": 16,
    "Name": 32,
}


def template(name: str) -> dict[str, Any]:
    return read_template((INFRA / f"{name}.yaml").read_text())


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(name: str) -> Iterator[dict[str, Any]]:
    """Every statement of a template's identity policies."""
    for resource in template(name)["Resources"].values():
        properties = resource["Properties"]
        policies = properties.get("Policies", [])
        if isinstance(policies, dict):
            _, policies, _ = policies["Fn::If"]
        documents = [policy["PolicyDocument"] for policy in policies]
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            documents.append(properties["PolicyDocument"])
        for document in documents:
            yield from document["Statement"]


def statement(name: str, sid: str) -> dict[str, Any]:
    (found,) = [entry for entry in statements(name) if entry["Sid"] == sid]
    return found


def text_of(value: Any) -> str:
    """The text of a value, `Fn::Sub` with its own variables included."""
    if isinstance(value, dict) and "Fn::Sub" in value:
        return str(listed(value["Fn::Sub"])[0])
    return str(value)


def test_cfn_lint_finds_nothing():
    command = [Path(sys.executable).with_name("cfn-lint"), *TEMPLATES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_account_region_or_partition_is_written_out(path):
    text = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
    text = text.replace(EVERYWHERE, "")
    assert not re.search(r"arn:aws|\b\d{12}\b|\b[a-z]{2}-[a-z]+-\d\b|amazonaws\.com", text)


@pytest.mark.parametrize("name", ["emr", "airflow", "genomics"])
def test_every_arn_is_well_formed(name):
    for entry in statements(name):
        for resource in listed(entry["Resource"]):
            text = text_of(resource)
            if text == "*" or "Fn::GetAtt" in text:
                continue
            # Such as arn:...:role:role/NAME, which allows nothing.
            assert not re.search(r"role:role|::\*", text)
            text = re.sub(r"\$\{[^}]+\}", "x", text).removesuffix(":log-stream:*")
            assert len(text.replace("log-group:", "log-group/").split(":")) == 6


@pytest.mark.parametrize("name", ["emr", "airflow", "genomics"])
def test_only_what_knows_no_resource_is_allowed_on_all(name):
    for entry in statements(name):
        if "*" in listed(entry["Resource"]):
            assert set(listed(entry["Action"])) <= WITHOUT_RESOURCE
        assert entry["Effect"] == "Allow"
        assert not any("*" in action for action in listed(entry["Action"]))


def test_a_cluster_can_only_be_started_with_the_deployment_s_tag():
    condition = statement("airflow", "StartTaggedClusters")["Condition"]["StringEquals"]
    assert condition == {"aws:RequestTag/aws-jobs:deployment": {"Ref": "DeploymentId"}}


def test_every_action_on_a_cluster_needs_the_deployment_s_tag():
    own = {"aws:ResourceTag/aws-jobs:deployment": {"Ref": "DeploymentId"}}
    assert statement("airflow", "RunOwnClusters")["Condition"] == {"StringEquals": own}


def test_a_cluster_of_another_deployment_cannot_be_taken_over_by_tagging_it():
    condition = statement("airflow", "TagNewClusters")["Condition"]
    assert condition["Null"] == {"aws:ResourceTag/aws-jobs:deployment": "true"}


def test_airflow_may_pass_exactly_the_two_roles_each_to_its_service():
    passed = {
        text_of(entry["Resource"]).rsplit("/", 1)[1]: text_of(
            entry["Condition"]["StringEquals"]["iam:PassedToService"]
        )
        for entry in statements("airflow")
        if entry["Action"] == "iam:PassRole"
    }
    assert passed == {
        "${DeploymentId}-emr-service": "elasticmapreduce.${AWS::URLSuffix}",
        "${DeploymentId}-emr-instance": "ec2.${AWS::URLSuffix}",
    }
    roles = {
        text_of(resource["Properties"]["RoleName"])
        for resource in template("emr")["Resources"].values()
        if resource["Type"] == "AWS::IAM::Role"
    }
    assert set(passed) == roles


def test_housekeeping_changes_only_what_has_the_deployment_s_tag_or_is_its_table():
    own = {"StringEquals": {"aws:ResourceTag/aws-jobs:deployment": {"Ref": "DeploymentId"}}}
    policy = template("airflow")["Resources"]["HousekeepingPolicy"]["Properties"]
    changing = {
        action: entry.get("Condition") or text_of(entry["Resource"]).rsplit("/", 1)[1]
        for entry in policy["PolicyDocument"]["Statement"]
        for action in listed(entry["Action"])
        if not re.search(r":(Describe|List|Get)", action)
    }
    assert changing == {
        "batch:TerminateJob": own,
        "dynamodb:UpdateItem": "${DeploymentId}-cluster-leases",
        "elasticmapreduce:CancelSteps": own,
        "elasticmapreduce:SetTerminationProtection": own,
        "elasticmapreduce:TerminateJobFlows": own,
    }


@pytest.mark.parametrize("policy", ["AirflowPolicy", "GenomicsPolicy", "HousekeepingPolicy"])
def test_airflow_s_policies_fit_whatever_the_names(policy):
    document = template("airflow")["Resources"][policy]["Properties"]["PolicyDocument"]
    text = json.dumps(written_out(document), separators=(",", ":"))
    assert len(text) <= POLICY_LENGTH


def written_out(value: Any) -> Any:
    """A document as CloudFormation writes it with the longest names."""
    if isinstance(value, list):
        return [written_out(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return "x" * LONGEST[value["Ref"]]
    if "Fn::Sub" in value:
        return re.sub(r"\$\{([^}]+)\}", lambda name: "x" * LONGEST[name[1]], text_of(value))
    return {key: written_out(each) for key, each in value.items()}


def test_the_clusters_write_results_and_logs_only():
    writing = {"s3:PutObject", "s3:DeleteObject"}
    written = [
        text_of(resource)
        for entry in statements("emr")
        if writing & set(listed(entry["Action"]))
        for resource in listed(entry["Resource"])
    ]
    assert [resource.split("${BucketName}")[1] for resource in written] == [
        "/flights/*",
        "/${LogPrefix}/*",
    ]


def bucket() -> dict[str, Any]:
    return template("storage")["Resources"]["Bucket"]


def test_the_bucket_is_private_encrypted_and_outlives_its_stack():
    assert bucket()["DeletionPolicy"] == bucket()["UpdateReplacePolicy"] == "Retain"
    properties = bucket()["Properties"]
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}


def test_what_is_left_over_in_the_bucket_goes_by_itself():
    rules = {rule["Id"]: rule for rule in bucket()["Properties"]["LifecycleConfiguration"]["Rules"]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    unfinished = rules["abort-unfinished-uploads"]["AbortIncompleteMultipartUpload"]
    assert unfinished == {"DaysAfterInitiation": 7}
    superseded = rules["expire-superseded-results"]
    assert superseded["TagFilters"] == [{"Key": "superseded", "Value": "true"}]
    assert superseded["ExpirationInDays"] == {"Ref": "SupersededDays"}
    assert text_of(rules["expire-emr-logs"]["Prefix"]) == "${LogPrefix}/"
    assert rules["expire-noncurrent-versions"]["ExpiredObjectDeleteMarker"] is True


def test_plain_http_is_refused_unless_it_is_switched_off():
    storage = template("storage")
    policy = storage["Resources"]["BucketTlsPolicy"]
    assert policy["Condition"] == "TlsRequired"
    assert storage["Parameters"]["RequireTls"]["Default"] == "true"
    (entry,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert (entry["Effect"], entry["Condition"]) == (
        "Deny",
        {"Bool": {"aws:SecureTransport": "false"}},
    )


def test_the_delays_are_a_table_of_parquet_by_day():
    table = template("storage")["Resources"]["FlightDelaysTable"]["Properties"]["TableInput"]
    assert (table["Name"], table["TableType"]) == ("flight_delays", "EXTERNAL_TABLE")
    assert [(key["Name"], key["Type"]) for key in table["PartitionKeys"]] == [("day", "string")]
    assert table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"].endswith(
        "ParquetHiveSerDe"
    )


def test_outputs_are_named_like_the_settings():
    outputs = {name for path in TEMPLATES for name in template(path.stem)["Outputs"]}
    fields = {re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in outputs}
    policies = {"airflow_policy_arn", "genomics_policy_arn", "housekeeping_policy_arn"}
    no_settings = {*policies, "mapping_repository_uri"}
    assert fields - no_settings <= set(Settings.model_fields)
    assert {"bucket", "glue_database", "emr_service_role", "genomics"} <= fields


def test_parameters_that_templates_share_are_declared_alike():
    declared: dict[str, dict[str, Any]] = {}
    for path in TEMPLATES:
        for name, parameter in template(path.stem)["Parameters"].items():
            rule = {key: parameter.get(key) for key in ("Type", "Default", "AllowedPattern")}
            assert declared.setdefault(name, rule) == rule
