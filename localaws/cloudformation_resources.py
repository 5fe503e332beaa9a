"""The resources of a template that localaws makes itself, through the services' own APIs.

So a property is checked by its service, and nothing is dropped that a service would take. Nested
properties are put into the API's spelling and types by botocore's model of the operation.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import botocore.model
from botocore.exceptions import ClientError
from moto.cloudformation.exceptions import UnformattedGetAttTemplateException, ValidationError
from moto.core.common_models import CloudFormationModel

from localaws.own_s3 import client

log = logging.getLogger(__name__)

Properties = dict[str, Any]

#: Where resources are made; moto calls class methods, which can be given nothing.
ENDPOINT: list[str] = []
#: What a service answers about a resource that is not there.
_GONE = (
    "EntityNotFoundException",
    "InvalidLaunchTemplateId.NotFound",
    "NoSuchBucket",
    "RepositoryNotFoundException",
    "ResourceNotFoundException",
)


@functools.cache
def _client(service: str, endpoint_url: str) -> Any:
    return client(service, endpoint_url)


def own_client(service: str) -> Any:
    """Return a client through which resources are made; making it takes longer than its calls."""
    return _client(service, ENDPOINT[0])


@contextmanager
def may_be_gone() -> Iterator[None]:
    """Let a deletion pass whose resource went with another one: a table with its database."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _GONE:
            raise


def flag(value: Any) -> bool:
    """Read a boolean, which a template may write as a string."""
    return str(value).lower() == "true"


def request_of(service: str, operation: str, kind: str, properties: Properties) -> Properties:
    """Put properties into the spelling and the types that an operation takes.

    Raises:
        ValidationError: a nested property is none of the operation's.
    """
    shape = own_client(service).meta.service_model.operation_model(operation).input_shape
    request: Properties = _shaped(properties, shape, kind)
    return request


def _shaped(value: Any, shape: botocore.model.Shape, path: str) -> Any:
    if isinstance(shape, botocore.model.StructureShape):
        return dict(_member(name, one, shape, path) for name, one in value.items())
    if isinstance(shape, botocore.model.ListShape):
        if not isinstance(value, list):
            raise ValidationError(message=f"{path} must be a list, not {value!r}")
        return [_shaped(one, shape.member, path) for one in value]
    if isinstance(shape, botocore.model.MapShape):
        return {str(key): _shaped(one, shape.value, path) for key, one in value.items()}
    convert: dict[str, Callable[[Any], Any]]
    convert = {"integer": int, "long": int, "boolean": flag, "string": str}
    return convert[shape.type_name](value) if shape.type_name in convert else value


def _member(
    name: str, value: Any, shape: botocore.model.StructureShape, path: str
) -> tuple[str, Any]:
    for spelling in (name, name[:1].lower() + name[1:]):
        if spelling in shape.members:
            return spelling, _shaped(value, shape.members[spelling], f"{path}.{name}")
    raise ValidationError(message=f"localaws does not honour, and will not ignore: {path}.{name}")


class Made:
    """A resource with a name, made from ``properties``.

    Not a CloudFormationModel itself: moto finds the types among that class's direct subclasses.
    """

    KIND: ClassVar[str]
    """The type in a template."""
    NAME: ClassVar[str] = ""
    """The property that names it; none if that is nested in another one."""
    HONOURED: ClassVar[frozenset[str]]
    FIXED: ClassVar[frozenset[str]] = frozenset()
    """Properties that cannot be changed: with another value, CloudFormation makes another one."""

    def __init__(self, name: str, properties: Properties) -> None:
        self.name = name
        self.properties = properties
        self.ref = name
        """What ``Ref`` gives."""
        self.attributes: dict[str, str] = {}
        """What ``Fn::GetAtt`` gives."""

    def make(self) -> None:
        """Make it."""
        raise NotImplementedError

    def settle(self, properties: Properties) -> None:
        """Apply what has an operation of its own; called when it was made or changed."""

    def change(self, properties: Properties) -> None:
        """Make it what the new properties say; ``self.properties`` are the old ones."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove it."""
        raise NotImplementedError

    @classmethod
    def name_in(cls, properties: Properties) -> str | None:
        """Return the name that a template gives it, None if it gives none."""
        return properties.get(cls.NAME)

    # what moto asks

    @property
    def physical_resource_id(self) -> str:
        """What ``Ref`` gives."""
        return self.ref

    @classmethod
    def cloudformation_type(cls) -> str:
        """Return the type."""
        return cls.KIND

    @classmethod
    def cloudformation_name_type(cls) -> str:
        """Return the property that names it."""
        return cls.NAME

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Let ``get_cfn_attribute`` decide."""
        return True

    def get_cfn_attribute(self, attribute_name: str) -> str:
        """Return what ``Fn::GetAtt`` gives."""
        try:
            return self.attributes[attribute_name]
        except KeyError:
            raise UnformattedGetAttTemplateException from None

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Made:
        """Make one."""
        properties = cloudformation_json["Properties"]
        made = cls(cls.name_in(properties) or resource_name, properties)
        made.make()
        try:
            made.settle(properties)
        except Exception:
            # CloudFormation does not know it yet and could not remove it
            made.remove()
            raise
        return made

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Made,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> Made:
        """Change it; with another name, or a change that it does not take, make another one."""
        properties, old = cloudformation_json["Properties"], original_resource
        if properties == old.properties:
            return old
        name = cls.name_in(properties) or old.name
        fixed = [key for key in sorted(cls.FIXED) if properties.get(key) != old.properties.get(key)]
        if name == old.name and not fixed:
            old.change(properties)
            old.settle(properties)
            old.properties = properties
            return old
        if name == old.name and cls.name_in(properties):
            # CloudFormation refuses the same: the new one could not be made beside the old one
            raise ValidationError(
                message=f"{cls.KIND} {name}: another {', '.join(fixed)} needs another {cls.NAME}"
            )
        made = cls.create_from_cloudformation_json(
            new_resource_name, cloudformation_json, account_id, region_name
        )
        old.remove()
        return made

    def delete(self, account_id: str, region_name: str) -> None:
        """Remove it."""
        with may_be_gone():
            self.remove()


class BucketPolicy(Made, CloudFormationModel):
    """AWS::S3::BucketPolicy."""

    KIND = "AWS::S3::BucketPolicy"
    NAME = "Bucket"
    HONOURED = frozenset({"Bucket", "PolicyDocument"})

    def make(self) -> None:
        """Attach the policy."""
        self._attach(self.properties)

    def change(self, properties: Properties) -> None:
        """Attach the new policy in place of the old one."""
        self.remove()
        self._attach(properties)

    def _attach(self, properties: Properties) -> None:
        document = without_tls_only(properties["PolicyDocument"])
        if document["Statement"]:
            own_client("s3").put_bucket_policy(Bucket=self.name, Policy=json.dumps(document))

    def remove(self) -> None:
        """Detach it."""
        own_client("s3").delete_bucket_policy(Bucket=self.name)


class GlueDatabase(Made, CloudFormationModel):
    """AWS::Glue::Database."""

    KIND = "AWS::Glue::Database"
    HONOURED = frozenset({"CatalogId", "DatabaseInput"})

    @classmethod
    def name_in(cls, properties: Properties) -> str | None:
        """Return the name in DatabaseInput."""
        name: str | None = properties["DatabaseInput"].get("Name")
        return name

    def make(self) -> None:
        """Make the database."""
        self.name = self.ref = self.name_in(self.properties) or self.name.lower()
        own_client("glue").create_database(DatabaseInput=self._input(self.properties))

    def change(self, properties: Properties) -> None:
        """Change the database."""
        own_client("glue").update_database(Name=self.name, DatabaseInput=self._input(properties))

    def remove(self) -> None:
        """Remove it."""
        own_client("glue").delete_database(Name=self.name)

    def _input(self, properties: Properties) -> Properties:
        return {**properties["DatabaseInput"], "Name": self.name}


class GlueTable(Made, CloudFormationModel):
    """AWS::Glue::Table."""

    KIND = "AWS::Glue::Table"
    HONOURED = frozenset({"CatalogId", "DatabaseName", "TableInput"})

    @classmethod
    def name_in(cls, properties: Properties) -> str | None:
        """Return the name in TableInput."""
        name: str | None = properties["TableInput"].get("Name")
        return name

    def make(self) -> None:
        """Make the table."""
        self.name = self.ref = self.name_in(self.properties) or self.name.lower()
        own_client("glue").create_table(
            DatabaseName=self._database, TableInput=self._input(self.properties)
        )

    def change(self, properties: Properties) -> None:
        """Change the table and keep its partitions; in another database, make another one."""
        glue, old, new = own_client("glue"), self._database, properties["DatabaseName"]
        table = self._input(properties)
        if new == old:
            glue.update_table(DatabaseName=new, TableInput=table)
        else:
            glue.create_table(DatabaseName=new, TableInput=table)
            glue.delete_table(DatabaseName=old, Name=self.name)

    def remove(self) -> None:
        """Remove it with its partitions."""
        own_client("glue").delete_table(DatabaseName=self._database, Name=self.name)

    @property
    def _database(self) -> str:
        return str(self.properties["DatabaseName"])

    def _input(self, properties: Properties) -> Properties:
        return {**properties["TableInput"], "Name": self.name}


def without_tls_only(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out the statements that refuse plain http, which is all that this endpoint speaks.

    moto enforces a bucket policy and looks at no condition: such a statement would lock everybody
    out.
    """
    statements = document.get("Statement") or []
    kept = [one for one in statements if not _refuses_http(one)]
    if len(kept) < len(statements):
        log.info(
            "a bucket policy refuses plain http: that statement is not attached, because localaws "
            "speaks plain http on loopback"
        )
    return {**document, "Statement": kept}


def _refuses_http(statement: dict[str, Any]) -> bool:
    condition = (statement.get("Condition") or {}).get("Bool") or {}
    secure = condition.get("aws:SecureTransport")
    return statement.get("Effect") == "Deny" and secure is not None and not flag(secure)
