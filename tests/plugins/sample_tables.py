"""Sample tables, reads and results for tests, each with a name of its own."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from typing import Any

from aws_jobs.samples import Sample, SampleTable, Status
from localaws.process import LocalAws

BUCKET = "localaws-data"
READS = gzip.compress(b"@r/1\nACGT\n+\nIIII\n", mtime=0)

_numbers = itertools.count()


@functools.cache
def client(aws: LocalAws, service: str) -> Any:
    """Return a client that makes each call once; to make one takes longer than a call."""
    return aws.client(service, retries={"total_max_attempts": 1}, max_pool_connections=10)


def make_table(aws: LocalAws) -> SampleTable:
    """Make a table like that of include/infra/genomics.yaml."""
    name = f"reads-{next(_numbers)}"
    dynamodb = client(aws, "dynamodb")
    dynamodb.create_table(
        TableName=name,
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
    )
    return SampleTable(dynamodb, name, BUCKET)


def add(table: SampleTable, name: str, **attributes: Any) -> Sample:
    """Put a sample into the table as a job may have left it."""
    item = {
        "sample": name,
        "r1": f"source/{table.name}/{name}_1.fastq.gz",
        "r2": f"source/{table.name}/{name}_2.fastq.gz",
        "status": Status.TO_DO,
        **attributes,
    }
    stored = {
        key: {"N": str(int(value))} if isinstance(value, int) else {"S": value}
        for key, value in item.items()
        if value is not None
    }
    table.dynamodb.put_item(TableName=table.name, Item=stored)
    return table.get([name])[name]


def read(table: SampleTable, name: str) -> Sample:
    """Read a sample that is there."""
    return table.get([name])[name]


def put_reads(aws: LocalAws, table: SampleTable, *names: str) -> None:
    """Upload reads for samples where ``add`` says they are."""
    s3 = client(aws, "s3")
    for name, mate in itertools.product(names, "12"):
        key = f"source/{table.name}/{name}_{mate}.fastq.gz"
        s3.put_object(Bucket=BUCKET, Key=key, Body=READS)


def put_results(aws: LocalAws, output: str, **manifest: Any) -> str:
    """Upload a finished sample's outputs with their manifest, and return its address."""
    s3 = client(aws, "s3")
    key = output.removeprefix(f"s3://{BUCKET}/")
    s3.put_object(Bucket=BUCKET, Key=f"{key}/S.filtered.bam", Body=b"BAM")
    content = {
        "created_at": "2026-01-01T10:00:00Z",
        "job_id": None,
        "outputs": {"filtered_bam": {"uri": f"{output}/S.filtered.bam", "size": 3}},
        **manifest,
    }
    s3.put_object(Bucket=BUCKET, Key=f"{key}/manifest.json", Body=json.dumps(content))
    return f"{output}/manifest.json"
