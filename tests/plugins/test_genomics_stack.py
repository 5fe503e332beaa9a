"""The stack as localaws makes it from the template that AWS gets."""

from __future__ import annotations

import json

from aws_jobs.settings import GenomicsSettings
from localaws.process import LocalAws


def test_what_the_stack_s_output_names_is_there(aws: LocalAws):
    (stack,) = aws.client("cloudformation").describe_stacks(StackName="local-genomics")["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    settings = GenomicsSettings.model_validate(json.loads(outputs["Genomics"]))
    batch = aws.client("batch")

    names = sorted({queue for queues in settings.queues.values() for queue in queues})
    queues = batch.describe_job_queues(jobQueues=names)["jobQueues"]
    assert sorted((queue["jobQueueName"], queue["status"]) for queue in queues) == [
        (name, "VALID") for name in names
    ]
    for name in (*settings.job_definitions.values(), settings.merge_job_definition):
        (job,) = batch.describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
        assert job["containerProperties"]["command"][1:] == ["Ref::manifest"]
        assert job["timeout"] == {"attemptDurationSeconds": 86_400}
    table = aws.client("dynamodb").describe_table(TableName=settings.samples_table)["Table"]
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["status-index"]
