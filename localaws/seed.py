"""Deploy production's CloudFormation templates at start, so that a bucket is there to begin with.

Stack ``local-<file name>`` for each ``*.yaml`` of the folder: the storage first, then the others by
name. Idempotent: a stack that is there with the same template and parameters is left alone, one
that changed is updated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import ClientError
from moto.cloudformation.utils import yaml_tag_constructor

from localaws.own_s3 import client

log = logging.getLogger(__name__)

PARAMETERS = {
    "DeploymentId": "local",
    "BucketName": "localaws-data",
    # the policy behind it refuses plain http, which is all that localaws speaks
    "RequireTls": "false",
    # a job of the cloud's size would fit no machine of this kind
    "MappingImage": "localaws/genomics-mapping:local",
    "MappingVcpus": "1",
    "MappingMemoryMiB": "2000",
    "MaxvCpus": "2",
    "SubnetIds": "subnet-0localaws",
    "SecurityGroupIds": "sg-0localaws",
}
#: Templates that others build upon.
FIRST = ("storage",)


class SeedError(RuntimeError):
    """A template that could not be deployed as it is; the message names it and what is wrong."""


def seed(folder: Path, endpoint_url: str) -> None:
    """Deploy every template of a folder.

    Raises:
        SeedError: one of them is refused.
    """
    paths = sorted(folder.glob("*.yaml"), key=lambda p: (p.stem not in FIRST, p.stem))
    if not paths:
        log.warning("no templates in %s: nothing is seeded", folder)
    cloudformation = client("cloudformation", endpoint_url)
    for path in paths:
        try:
            _deploy(cloudformation, f"local-{path.stem}", path.read_text())
        except (ClientError, ValueError, yaml.YAMLError) as error:
            raise SeedError(f"{path}: {error}") from error


def _deploy(cloudformation: Any, stack: str, body: str) -> None:
    arguments = {
        "StackName": stack,
        "TemplateBody": body,
        "Parameters": list(parameters_of(read_template(body), PARAMETERS)),
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    existing = _existing(cloudformation, stack)
    if existing is None:
        cloudformation.create_stack(**arguments)
    elif existing != body:
        cloudformation.update_stack(**arguments)
    else:
        return
    status = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise ValueError(f"stack {stack} is {status}")
    log.info("stack %s: %s", stack, status)


def parameters_of(template: dict[str, Any], values: dict[str, str]) -> Iterable[dict[str, str]]:
    """Return those values that the template has parameters for, as CreateStack takes them."""
    for name in template.get("Parameters") or {}:
        if name in values:
            yield {"ParameterKey": name, "ParameterValue": values[name]}


def _existing(cloudformation: Any, stack: str) -> str | None:
    stacks = cloudformation.list_stacks()["StackSummaries"]
    if not any(s["StackName"] == stack and s["StackStatus"] != "DELETE_COMPLETE" for s in stacks):
        return None
    return str(cloudformation.get_template(StackName=stack)["TemplateBody"])


def read_template(body: str) -> dict[str, Any]:
    """Parse a template with CloudFormation's own tags (``!Sub``)."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("", yaml_tag_constructor)
    # SafeLoader's subclass: the tags make plain data
    template = yaml.load(body, Loader=Loader)  # noqa: S506
    if not isinstance(template, dict):
        raise ValueError("it is not a CloudFormation template")
    return template
