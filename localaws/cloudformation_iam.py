"""IAM's types in a template: moto makes them, attaches no managed policy, updates nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from moto.iam.models import InstanceProfile, ManagedPolicy, Role

from localaws.wrapping import wrap

ClientMaker = Callable[[], Any]


def install(make_client: ClientMaker) -> None:
    """Complete roles, and make updates of instance profiles and policies take effect."""

    def role_after(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        role = original(*args, **kwargs)
        document = kwargs.get("cloudformation_json") or args[1]
        configure_role(make_client(), role.name, document["Properties"])
        return role

    def delete_role(original: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        # moto detaches inline policies only, and then refuses to delete the role
        _set_attached_policies(make_client(), name, set())
        return original(name, *args, **kwargs)

    def update_profile(
        cls: Any, /, original_resource: Any, cloudformation_json: Any, **_: Any
    ) -> Any:
        _set_profile_roles(make_client(), original_resource, cloudformation_json["Properties"])
        return original_resource

    def update_policy(
        cls: Any, /, original_resource: Any, cloudformation_json: Any, **_: Any
    ) -> Any:
        _set_policy(make_client(), original_resource, cloudformation_json["Properties"])
        return original_resource

    wrap(Role, "create_from_cloudformation_json", role_after)
    wrap(Role, "update_from_cloudformation_json", role_after)
    wrap(Role, "delete_from_cloudformation_json", delete_role)
    for owner, update in ((InstanceProfile, update_profile), (ManagedPolicy, update_policy)):
        # setattr: the methods are abstract in moto, so that CloudFormation skips them in silence
        setattr(owner, "update_from_cloudformation_json", classmethod(update))  # noqa: B010


def configure_role(iam: Any, name: str, properties: dict[str, Any]) -> None:
    """Give a role exactly the policies and the trust that a template names."""
    trust = properties["AssumeRolePolicyDocument"]
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
    _set_attached_policies(iam, name, set(properties.get("ManagedPolicyArns") or []))
    inline = {p["PolicyName"]: p["PolicyDocument"] for p in properties.get("Policies") or []}
    for policy, document in inline.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        if policy not in inline:
            iam.delete_role_policy(RoleName=name, PolicyName=policy)


def _set_attached_policies(iam: Any, name: str, wanted: set[str]) -> None:
    attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    present = {policy["PolicyArn"] for policy in attached}
    for arn in sorted(wanted - present):
        iam.attach_role_policy(RoleName=name, PolicyArn=arn)
    for arn in sorted(present - wanted):
        iam.detach_role_policy(RoleName=name, PolicyArn=arn)


def _set_profile_roles(iam: Any, profile: Any, properties: dict[str, Any]) -> None:
    name = profile.name
    for role in list(profile.roles):
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role.name)
    for role_name in properties["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=role_name)


def _set_policy(iam: Any, policy: Any, properties: dict[str, Any]) -> None:
    versions = iam.list_policy_versions(PolicyArn=policy.arn)["Versions"]
    # IAM keeps five versions of a policy at most
    for old in [v for v in versions if not v["IsDefaultVersion"]][3:]:
        iam.delete_policy_version(PolicyArn=policy.arn, VersionId=old["VersionId"])
    iam.create_policy_version(
        PolicyArn=policy.arn,
        PolicyDocument=json.dumps(properties["PolicyDocument"]),
        SetAsDefault=True,
    )
