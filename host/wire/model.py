"""A plugin's gRPC contract as data: messages, enums and services, not yet numbered."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

EMPTY: Final = ".google.protobuf.Empty"
TIMESTAMP: Final = ".google.protobuf.Timestamp"
VALUE: Final = ".google.protobuf.Value"
STRUCT: Final = ".google.protobuf.Struct"
SCALARS: Final = frozenset({"string", "int64", "double", "bool", "bytes"})

Many = Literal["", "list", "map"]
Codec = Literal["plain", "base64", "time", "enum", "message", "value", "object"]
"""How a protobuf value and its JSON differ: not at all, base64url text, RFC 3339 text, a word, an object of its own, any
JSON, any JSON object."""
Shape = Literal["record", "union", "box"]
"""`record`: a Struct. `union`: one of its members by tag, a oneof. `box`: holds one value that protobuf alone could not
leave out: a list that may be absent, a null beside a default, a list of lists."""


class WireField(Struct, frozen=True):
    """One field of a message."""

    name: str
    """In protobuf: the Struct's own name of it."""
    json_name: str
    """In JSON, for REST and for protobuf's JSON alike."""
    type: str
    """A scalar, a well-known type with its leading dot, or the name of a message or enum of the same contract."""
    codec: Codec
    many: Many = ""
    presence: bool = False
    """Whether absent is something else than the type's zero."""
    required: bool = False
    """Whether it must be in the JSON."""
    is_null: bool = False
    """Whether absent is null: it must be in the JSON, and may be null there."""

    @property
    def label(self) -> str:
        """Its type as a lock tells it: `repeated string`, `map<string, Line>`. Whether it is optional is not part of it:
        that changes no byte of a value that is sent."""
        if self.many == "map":
            return f"map<string, {self.type}>"
        return f"repeated {self.type}" if self.many else self.type


class WireMessage(Struct, frozen=True):
    """One message; the name of a nested one has dots."""

    name: str
    fields: tuple[WireField, ...]
    shape: Shape = "record"
    origin: str = ""
    """The module's last word and the class: `users.UserView`; empty for what only protobuf needs."""
    tag_field: str = ""
    """JSON name of the field that tells a union's members apart."""
    tag: str | int = ""
    """What stands in it for this Struct."""


class WireEnum(Struct, frozen=True):
    """One enum; zero is nobody's word."""

    name: str
    words: tuple[str, ...]
    origin: str


class WireMethod(Struct, frozen=True):
    """One operation."""

    name: str
    operation: str
    """Its id: `iam.create_user`."""
    request: str
    answer: str
    """A message, or EMPTY."""
    is_boxed: bool = False
    """Whether the answer is no Struct and stands alone in its message."""


class WireService(Struct, frozen=True):
    """One class of operations."""

    name: str
    methods: tuple[WireMethod, ...]


class Contract(Struct, frozen=True):
    """Everything of one plugin."""

    package: str
    messages: tuple[WireMessage, ...]
    enums: tuple[WireEnum, ...]
    services: tuple[WireService, ...]
    lacking: dict[str, str]
    """Operations that have no method, by id, and why."""

    @property
    def file(self) -> str:
        """The name of its .proto file: `pk/iam/v1/iam.proto`."""
        parts = self.package.split(".")
        return f"{'/'.join(parts)}/{parts[-2]}.proto"


def enum_value_name(enum: str, word: str) -> str:
    """`COLOUR_DEEP_RED`: the words of all enums of a package share one scope."""
    spaced = "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(enum))
    return f"{spaced}_{word}".upper()


def camel(word: str) -> str:
    """`create_user` is `CreateUser`."""
    return "".join(part[:1].upper() + part[1:] for part in word.split("_"))


def service_name(class_name: str) -> str:
    """`MoneyOperations` is `Money`."""
    return class_name.removesuffix("Operations") or class_name


def method_path(package: str, class_name: str, operation: str) -> str:
    """Where gRPC finds an operation: `/pk.money.v1.Money/CreateHold`."""
    return f"/{package}.{service_name(class_name)}/{camel(operation)}"
