"""CloudFormation that honours what a template says, or refuses it by name.

Plain moto skips a type that it does not know and drops properties in silence, and leaves half a
stack behind when it fails. Here a template is checked first, every type and property that is not
honoured is named, a value outside of AllowedValues or AllowedPattern is refused, and a stack that
fails is removed with what it made.

To support another type: moto's own model and its properties in :data:`HONOURED`, or a model in
:mod:`localaws.cloudformation_resources`.
"""

from __future__ import annotations

import graphlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.cloudformation import models as moto_models
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.s3.models import FakeBucket

from localaws import cloudformation_batch, cloudformation_iam, cloudformation_resources
from localaws.cloudformation_resources import (
    BucketPolicy,
    GlueDatabase,
    GlueTable,
    Made,
    flag,
    own_client,
)
from localaws.wrapping import wrap

log = logging.getLogger(__name__)

#: The types that localaws makes itself.
MODELS: tuple[type[Made], ...] = (
    BucketPolicy,
    GlueDatabase,
    GlueTable,
    *cloudformation_batch.MODELS,
)
#: What is honoured, by type.
HONOURED: dict[str, frozenset[str]] = {
    "AWS::S3::Bucket": frozenset(
        {
            "BucketName",
            "BucketEncryption",
            "LifecycleConfiguration",
            "OwnershipControls",
            "PublicAccessBlockConfiguration",
            "Tags",
            "VersioningConfiguration",
        }
    ),
    **{model.KIND: model.HONOURED for model in MODELS},
    # moto's own types, completed by localaws.cloudformation_iam
    "AWS::IAM::Role": frozenset(
        {
            "AssumeRolePolicyDocument",
            "Description",
            "ManagedPolicyArns",
            "MaxSessionDuration",
            "Path",
            "PermissionsBoundary",
            "Policies",
            "RoleName",
        }
    ),
    "AWS::IAM::InstanceProfile": frozenset({"InstanceProfileName", "Path", "Roles"}),
    "AWS::IAM::ManagedPolicy": frozenset(
        {"Description", "Groups", "ManagedPolicyName", "Path", "PolicyDocument", "Roles", "Users"}
    ),
}
#: A lifecycle rule of CloudFormation, where the S3 API says the same with other words.
_LIFECYCLE_SAME = (
    "Status",
    "AbortIncompleteMultipartUpload",
    "NoncurrentVersionExpiration",
)
_LIFECYCLE_OTHER = (
    "Id",
    "Prefix",
    "TagFilters",
    "ExpirationInDays",
    "ExpiredObjectDeleteMarker",
    "Transitions",
)


def install(endpoint_url: str) -> None:
    """Extend moto's CloudFormation; resources are made through the API at ``endpoint_url``."""
    cloudformation_resources.ENDPOINT[:] = [endpoint_url]
    # moto finds types among the direct subclasses, once: ours exist by now
    parsing.get_model_list.cache_clear()
    parsing.get_model_map.cache_clear()
    parsing.get_name_type_map.cache_clear()
    wrap(parsing.ResourceMap, "create", _check_before)
    wrap(parsing.ResourceMap, "update", _check_before)
    wrap(parsing.ResourceMap, "build_resource_diff", _look_at_values)
    wrap(parsing.ResourceMap, "load_parameters", _check_parameters_after)
    wrap(moto_models.CloudFormationBackend, "create_stack", _remove_if_it_fails)
    wrap(FakeBucket, "create_from_cloudformation_json", _bucket_after)
    wrap(FakeBucket, "update_from_cloudformation_json", _bucket_after)
    cloudformation_iam.install(lambda: own_client("iam"))


def not_honoured(template: dict[str, Any]) -> list[str]:
    """Return each type and property of a template that would be ignored.

    >>> not_honoured({"Resources": {"A": {"Type": "AWS::S3::Bucket", "Properties": {"Nope": 1}}}})
    ['A: AWS::S3::Bucket.Nope']
    """
    found = []
    for name, resource in (template.get("Resources") or {}).items():
        kind = resource.get("Type")
        if kind not in HONOURED:
            found.append(f"{name}: {kind}")
            continue
        properties = set(resource.get("Properties") or {})
        found += [f"{name}: {kind}.{p}" for p in sorted(properties - HONOURED[kind])]
    return found


def _check_before(
    original: Callable[..., Any], resources: Any, template: dict[str, Any], *args: Any, **kw: Any
) -> Any:
    ignored = not_honoured(template)
    if ignored:
        raise ValidationError(
            message="localaws does not honour, and will not ignore: " + ", ".join(ignored)
        )
    try:
        return original(resources, template, *args, **kw)
    except (BotoCoreError, ClientError) as error:
        # a service refuses what the template says: the template's fault, as CloudFormation has it
        raise ValidationError(message=f"a resource was refused: {error}") from error


def _look_at_values(
    original: Callable[..., Any], resources: Any, template: dict[str, Any], *parameters: Any
) -> Any:
    """Let an update reach what says the same with other values: a default, an attribute.

    moto compares the texts of the template. A :class:`Made` compares what they come to.
    """
    actions = original(resources, template, *parameters)
    if parameters:
        kinds = {model.KIND for model in MODELS}
        kept = {
            name
            for name, resource in template["Resources"].items()
            if resource["Type"] in kinds and name in resources._resource_json_map
        }
        changed = kept | set(actions["Modify"])
        order = dependency_order(template["Resources"])
        actions["Modify"] = [name for name in order if name in changed]
    return actions


def dependency_order(resources: dict[str, Any]) -> list[str]:
    """Return the names of a template's resources, each after those that it speaks of.

    >>> dependency_order({"A": {"x": {"Ref": "B"}}, "B": {}})
    ['B', 'A']
    """
    graph = {name: set(_references(one)) & set(resources) for name, one in resources.items()}
    return list(graphlib.TopologicalSorter(graph).static_order())


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("Ref", "Fn::GetAtt", "DependsOn"):
                names = inner if isinstance(inner, list) else [inner]
                yield from (str(name).partition(".")[0] for name in names)
            elif key == "Fn::Sub":
                text = inner[0] if isinstance(inner, list) else inner
                yield from re.findall(r"\$\{(\w+)", text)
            yield from _references(inner)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)


def _check_parameters_after(original: Callable[..., Any], resources: Any) -> None:
    original(resources)
    for name, slot in (resources._template.get("Parameters") or {}).items():
        value = resources.resolved_parameters.get(name)
        is_list = slot["Type"] == "CommaDelimitedList" or slot["Type"].startswith("List<")
        if is_list and isinstance(value, str):
            # moto splits what is given, and leaves a default as it is
            value = value.split(",")
            resources.resolved_parameters[name] = resources._parsed_resources[name] = value
        allowed, pattern = slot.get("AllowedValues"), slot.get("AllowedPattern")
        if allowed and str(value) not in [str(one) for one in allowed]:
            raise ValidationError(message=f"Parameter {name} must be one of {allowed}: {value!r}")
        if pattern and not re.fullmatch(str(pattern), str(value)):
            why = slot.get("ConstraintDescription", f"it must match {pattern}")
            raise ValidationError(message=f"Parameter {name} is {value!r}: {why}")


def _remove_if_it_fails(original: Callable[..., Any], backend: Any, *args: Any, **kw: Any) -> Any:
    before = set(backend.stacks)
    try:
        return original(backend, *args, **kw)
    except Exception:
        for stack_id in set(backend.stacks) - before:
            stack = backend.stacks.pop(stack_id)
            try:
                stack.resource_map.delete()
            except Exception:
                log.exception(
                    "stack %s failed, and not all that it made could be removed", stack.name
                )
        raise


def _bucket_after(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    bucket = original(*args, **kwargs)
    document = kwargs.get("cloudformation_json") or args[1]
    try:
        configure_bucket(bucket.name, document.get("Properties") or {})
    except Exception:
        if "original_resource" not in kwargs:
            # CloudFormation does not know the new bucket yet and could not remove it
            own_client("s3").delete_bucket(Bucket=bucket.name)
        raise
    return bucket


def configure_bucket(name: str, properties: dict[str, Any]) -> None:
    """Apply the properties that moto leaves out of a bucket."""
    s3 = own_client("s3")
    block = properties.get("PublicAccessBlockConfiguration")
    if block:
        s3.put_public_access_block(
            Bucket=name, PublicAccessBlockConfiguration={k: flag(v) for k, v in block.items()}
        )
    if properties.get("OwnershipControls"):
        s3.put_bucket_ownership_controls(
            Bucket=name, OwnershipControls=properties["OwnershipControls"]
        )
    if properties.get("VersioningConfiguration"):
        s3.put_bucket_versioning(
            Bucket=name, VersioningConfiguration=properties["VersioningConfiguration"]
        )
    rules = (properties.get("LifecycleConfiguration") or {}).get("Rules")
    if rules:
        s3.put_bucket_lifecycle_configuration(
            Bucket=name, LifecycleConfiguration={"Rules": [lifecycle_rule(r) for r in rules]}
        )


def lifecycle_rule(rule: dict[str, Any]) -> dict[str, Any]:
    """Turn CloudFormation's form of a lifecycle rule into the S3 API's.

    Raises:
        ValidationError: the rule has something that is not translated here.
    """
    unknown = sorted(set(rule) - set(_LIFECYCLE_SAME) - set(_LIFECYCLE_OTHER))
    if unknown:
        raise ValidationError(
            message="localaws does not honour, and will not ignore: "
            + ", ".join(f"AWS::S3::Bucket.LifecycleConfiguration.Rules.{name}" for name in unknown)
        )
    api: dict[str, Any] = {key: _numbers(rule[key]) for key in _LIFECYCLE_SAME if key in rule}
    if "Id" in rule:
        api["ID"] = rule["Id"]
    api["Filter"] = _lifecycle_filter(rule.get("Prefix"), rule.get("TagFilters") or [])
    expiration: dict[str, Any] = {}
    if "ExpirationInDays" in rule:
        expiration["Days"] = int(rule["ExpirationInDays"])
    if "ExpiredObjectDeleteMarker" in rule:
        expiration["ExpiredObjectDeleteMarker"] = flag(rule["ExpiredObjectDeleteMarker"])
    if expiration:
        api["Expiration"] = expiration
    if rule.get("Transitions"):
        api["Transitions"] = [
            {"Days": int(t["TransitionInDays"]), "StorageClass": t["StorageClass"]}
            for t in rule["Transitions"]
        ]
    return api


def _lifecycle_filter(prefix: str | None, tags: list[dict[str, str]]) -> dict[str, Any]:
    if not tags:
        return {"Prefix": prefix or ""}
    if len(tags) == 1 and prefix is None:
        return {"Tag": tags[0]}
    return {"And": {"Prefix": prefix or "", "Tags": tags}}


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: int(v) if str(v).isdigit() else v for key, v in value.items()}
    return value
