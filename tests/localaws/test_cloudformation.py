"""Templates: honoured to the letter, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

from localaws.cloudformation import lifecycle_rule, not_honoured
from localaws.cloudformation_resources import without_tls_only
from localaws.process import LocalAws, LocalAwsError
from tests.localaws.conftest import QUICK

TEMPLATES = Path(__file__).parents[2] / "include" / "infra"
TLS_ONLY = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}


def bucket(**properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::S3::Bucket", "Properties": properties}


def template(**resources: Any) -> str:
    return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources})


def deploy(aws: LocalAws, name: str, body: str, *, update: bool = False) -> str:
    client = aws.client("cloudformation", retries={"total_max_attempts": 1})
    action = client.update_stack if update else client.create_stack
    action(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
    return str(client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])


def live_stacks(aws: LocalAws) -> list[str]:
    stacks = aws.client("cloudformation").list_stacks()["StackSummaries"]
    return [s["StackName"] for s in stacks if s["StackStatus"] != "DELETE_COMPLETE"]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(env=QUICK, data=tmp_path_factory.mktemp("data")) as aws:
        yield aws


def test_the_projects_templates_are_there_at_the_start(seeded: LocalAws) -> None:
    s3, iam, glue = (seeded.client(service) for service in ("s3", "iam", "glue"))
    declared = yaml.load((TEMPLATES / "storage.yaml").read_text(), Loader=yaml.BaseLoader)
    rules = declared["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]

    found = s3.get_bucket_lifecycle_configuration(Bucket="localaws-data")["Rules"]
    attached = iam.list_attached_role_policies(RoleName="local-emr-service")["AttachedPolicies"]
    profile = iam.get_instance_profile(InstanceProfileName="local-emr-instance")
    tables = glue.get_tables(DatabaseName="local_flights")["TableList"]

    assert [rule["ID"] for rule in found] == [rule["Id"] for rule in rules]
    assert s3.get_bucket_versioning(Bucket="localaws-data")["Status"] == "Enabled"
    assert all(
        s3.get_public_access_block(Bucket="localaws-data")[
            "PublicAccessBlockConfiguration"
        ].values()
    )
    assert s3.get_bucket_encryption(Bucket="localaws-data")["ServerSideEncryptionConfiguration"]
    assert [p["PolicyName"] for p in attached] == ["AmazonEMRServicePolicy_v2"]
    assert profile["InstanceProfile"]["Roles"][0]["RoleName"] == "local-emr-instance"
    assert [t["Name"] for t in tables] == ["flight_delays"]
    assert seeded._control("GET", "health") == {"status": "ok", "seeded": True}


def test_seeding_twice_changes_nothing(seeded: LocalAws) -> None:
    seeded.client("s3").put_object(Bucket="localaws-data", Key="mine", Body=b"x")
    seeded.stop()
    seeded.start()

    stacks = seeded.client("cloudformation").list_stacks()["StackSummaries"]

    assert {s["StackStatus"] for s in stacks} == {"CREATE_COMPLETE"}
    assert seeded.client("s3").get_object(Bucket="localaws-data", Key="mine")


def test_a_type_or_property_that_is_not_honoured_is_named_and_nothing_is_made(
    aws: LocalAws,
) -> None:
    body = template(
        Good=bucket(BucketName="never-made"),
        Queue={"Type": "AWS::Nope::Queue"},
        Bad=bucket(BucketName="never-made-2", ReplicationConfiguration={}),
    )

    with pytest.raises(ClientError) as caught:
        deploy(aws, "bad", body)

    message = str(caught.value)
    assert "Queue: AWS::Nope::Queue" in message
    assert "Bad: AWS::S3::Bucket.ReplicationConfiguration" in message
    names = [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]]
    assert "never-made" not in names
    assert live_stacks(aws) == []


def test_a_stack_that_fails_is_removed_with_what_it_made(aws: LocalAws) -> None:
    database = {
        "Type": "AWS::Glue::Database",
        "Properties": {"CatalogId": "x", "DatabaseInput": {"Name": "half", "Nope": 1}},
        "DependsOn": "First",
    }

    with pytest.raises(ClientError, match="Nope"):
        deploy(aws, "half", template(First=bucket(BucketName="half-made"), Second=database))

    names = [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]]
    assert "half-made" not in names
    assert live_stacks(aws) == []


def test_a_changed_stack_takes_effect(aws: LocalAws) -> None:
    def body(days: int, database: str, action: str) -> str:
        rule = {"Id": "old", "Status": "Enabled", "Prefix": "logs/", "ExpirationInDays": days}
        document = {"Version": "2012-10-17"}
        principal = {"Service": "ec2.amazonaws.com"}
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
        statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
        policy = {"PolicyName": "p", "PolicyDocument": {**document, "Statement": [statement]}}
        return template(
            Bucket=bucket(BucketName="changing", LifecycleConfiguration={"Rules": [rule]}),
            Database={
                "Type": "AWS::Glue::Database",
                "Properties": {"CatalogId": "x", "DatabaseInput": {"Name": database}},
            },
            Role={
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": "changing",
                    "AssumeRolePolicyDocument": {**document, "Statement": [trust]},
                    "Policies": [policy],
                },
            },
        )

    created = deploy(aws, "changing", body(1, "one", "s3:GetObject"))
    updated = deploy(aws, "changing", body(2, "two", "s3:PutObject"), update=True)
    s3, glue, iam = (aws.client(service) for service in ("s3", "glue", "iam"))
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="changing")["Rules"]
    databases = [d["Name"] for d in glue.get_databases()["DatabaseList"]]
    policy = iam.get_role_policy(RoleName="changing", PolicyName="p")["PolicyDocument"]
    aws.client("cloudformation").delete_stack(StackName="changing")

    assert (created, updated) == ("CREATE_COMPLETE", "UPDATE_COMPLETE")
    assert rule["Expiration"] == {"Days": 2}
    assert databases == ["two"]
    assert policy["Statement"][0]["Action"] == "s3:PutObject"


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ({"AllowedValues": ["a", "b"]}, "must be one of"),
        ({"AllowedPattern": "[a-z]+", "ConstraintDescription": "letters only"}, "letters only"),
    ],
)
def test_a_parameter_out_of_its_bounds_is_refused(
    aws: LocalAws, slot: dict[str, Any], words: str
) -> None:
    body = json.loads(template(Bucket=bucket(BucketName={"Ref": "Name"})))
    body["Parameters"] = {"Name": {"Type": "String", "Default": "123", **slot}}

    with pytest.raises(ClientError, match=words):
        deploy(aws, "bounds", json.dumps(body))


def test_a_policy_that_refuses_plain_http_does_not_lock_this_endpoint_out(aws: LocalAws) -> None:
    document = {"Version": "2012-10-17", "Statement": [TLS_ONLY]}
    policy = {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": document},
    }

    deploy(aws, "tls", template(Bucket=bucket(BucketName="over-http"), Policy=policy))
    s3 = aws.client("s3")
    s3.put_object(Bucket="over-http", Key="k", Body=b"x")
    s3.delete_object(Bucket="over-http", Key="k")

    assert "plain http: that statement is not attached" in aws.log()
    aws.client("cloudformation").delete_stack(StackName="tls")


def test_the_other_statements_of_a_policy_stay() -> None:
    other = {"Effect": "Deny", "Action": "s3:DeleteBucket", "Resource": "*", "Principal": "*"}

    kept = without_tls_only({"Statement": [TLS_ONLY, other]})

    assert kept["Statement"] == [other]


def test_every_type_of_the_projects_templates_is_honoured() -> None:
    from localaws.seed import read_template

    paths = sorted(TEMPLATES.glob("*.yaml"))

    assert {p.stem for p in paths} >= {"storage", "emr"}
    assert {p.name: not_honoured(read_template(p.read_text())) for p in paths} == {
        p.name: [] for p in paths
    }


def test_a_lifecycle_rule_says_the_same_in_the_apis_words() -> None:
    rule = {
        "Id": "x",
        "Status": "Enabled",
        "Prefix": "p/",
        "TagFilters": [{"Key": "superseded", "Value": "true"}],
        "ExpirationInDays": "7",
        "Transitions": [{"StorageClass": "GLACIER", "TransitionInDays": 3}],
        "NoncurrentVersionExpiration": {"NoncurrentDays": "5"},
    }

    assert lifecycle_rule(rule) == {
        "ID": "x",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": "p/", "Tags": [{"Key": "superseded", "Value": "true"}]}},
        "Expiration": {"Days": 7},
        "Transitions": [{"StorageClass": "GLACIER", "Days": 3}],
        "NoncurrentVersionExpiration": {"NoncurrentDays": 5},
    }


def test_a_template_that_cannot_be_honoured_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "storage.yaml").write_text(
        "Resources:\n  Queue:\n    Type: AWS::SQS::Queue\n    Properties: {QueueName: q}\n"
    )

    with pytest.raises(LocalAwsError, match="Queue: AWS::SQS::Queue") as caught:
        LocalAws(env={"LOCALAWS_SEED_TEMPLATES": str(tmp_path)}).start()

    assert "storage.yaml" in str(caught.value)
