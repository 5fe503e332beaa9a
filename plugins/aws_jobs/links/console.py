"""Links from a task in Airflow's UI to AWS's console.

Airflow stores what ``get_link`` returns whenever the task leaves its worker, so a link is there
while the task is deferred. It is taken from the running operator: reading it back from XCom, as the
provider's links do, would cost an API call each, and importing those costs 0.6 s at every parse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from aws_jobs.aws_clients import is_aws
from aws_jobs.s3_uri import split_uri

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

# The longest that an address may be signed for, in seconds.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html
_WEEK = 604_800


class ConsoleLink(BaseOperatorLink):
    """A link whose address the running operator has found, by the link's name in ``links``."""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return what the operator found, or nothing."""
        links: dict[str, str] = getattr(operator, "links", {})
        return links.get(self.name, "")


def console_url(region: str) -> str:
    """Return the address of a region's console, which differs between AWS's partitions."""
    import botocore.session

    partition: Any = botocore.session.get_session().get_partition_for_region(region)
    domain = {
        "aws-cn": "console.amazonaws.cn",
        "aws-us-gov": "console.amazonaws-us-gov.com",
    }.get(partition, "console.aws.amazon.com")
    return f"https://{region}.{domain}"


def object_url(s3: Any, uri: str) -> str:
    """Return the address at which a browser shows an object: for a week, where there is no console.

    :param s3: a client: where its endpoint is not AWS itself, there is none.
    :param uri: ``s3://bucket/key``.
    """
    bucket, key = split_uri(uri)
    if not is_aws(s3):
        where = {"Bucket": bucket, "Key": key}
        return str(s3.generate_presigned_url("get_object", Params=where, ExpiresIn=_WEEK))
    return f"{console_url(s3.meta.region_name)}/s3/object/{bucket}?prefix={quote(key)}"
