"""boto3 clients for tasks and triggers, over the amazon provider's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# An answer that has not come by then is asked for again: EMR answers within a second or two.
_CONNECT_SECONDS = 5
_READ_SECONDS = 20


def aws_client(service: str, aws_conn_id: str | None, region: str | None) -> Any:
    """Return a boto3 client that makes each call exactly once.

    botocore's own retries would repeat a submission whose answer was lost, and would spend the
    account's quota without the shared poller's knowledge. Whoever calls decides what is repeated.

    :param region: None for the connection's own.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
    )
    hook: Any = AwsBaseHook(
        aws_conn_id=aws_conn_id, region_name=region, client_type=service, config=config
    )
    return hook.conn


def urgent_call(
    service: str, aws_conn_id: str | None, region: str | None, call: Callable[[Any], None]
) -> None:
    """Make one call that must be over within three seconds: SIGKILL follows SIGTERM after five."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=2)
    hook: Any = AwsBaseHook(
        aws_conn_id=aws_conn_id, region_name=region, client_type=service, config=config
    )
    call(hook.conn)
