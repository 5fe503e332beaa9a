"""boto3 clients for tasks and triggers, over the amazon provider's connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

# Seconds to connect and to answer. EMR answers within a second or two: what takes longer is lost.
_PATIENT = (5, 20)
# The last call of a task that is killed: SIGKILL follows SIGTERM after five seconds.
_URGENT = (1, 2)


def aws_client(
    service: str, aws_conn_id: str | None, region: str | None, *, urgent: bool = False
) -> Any:
    """Return a boto3 client that makes each call exactly once.

    botocore's own retries would repeat a submission whose answer was lost, and would spend the
    account's quota without the shared poller's knowledge. Whoever calls decides what is repeated.

    :param region: None for the connection's own.
    :param urgent: for calls that must be over within three seconds.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from botocore.config import Config

    connect_timeout, read_timeout = _URGENT if urgent else _PATIENT
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
    )
    hook: Any = AwsBaseHook(
        aws_conn_id=aws_conn_id, region_name=region, client_type=service, config=config
    )
    return hook.conn


def is_aws(client: Any) -> bool:
    """Whether a client speaks to AWS, and not to a stand-in for it."""
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))
