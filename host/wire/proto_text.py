"""A plugin's `.proto` file, out of the very descriptor that reflection serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf import descriptor_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_NAMES: Final = {
    _Field.TYPE_STRING: "string",
    _Field.TYPE_INT64: "int64",
    _Field.TYPE_DOUBLE: "double",
    _Field.TYPE_BOOL: "bool",
    _Field.TYPE_BYTES: "bytes",
}
_HEAD: Final = "// Made by `pk contract export`; the numbers are those of wire.lock.\n"


def proto_text(file: descriptor_pb2.FileDescriptorProto) -> str:
    """The text of a file that `host.wire.descriptors.file_of` has made."""
    lines = [f'syntax = "proto3";\n\npackage {file.package};\n']
    if file.dependency:
        lines.append("".join(f'import "{name}";\n' for name in file.dependency))
    lines += [_block(f"service {one.name}", _methods(one)) for one in file.service]
    lines += [_block(f"message {one.name}", _members(one)) for one in file.message_type]
    lines += [_block(f"enum {one.name}", _values(one)) for one in file.enum_type]
    return _HEAD + "\n".join(lines)


def _block(head: str, members: Iterable[str]) -> str:
    body = "".join(f"  {line}\n" if line else "\n" for member in members for line in member.splitlines())
    return f"{head} {{\n{body}}}\n"


def _methods(service: descriptor_pb2.ServiceDescriptorProto) -> Iterator[str]:
    for one in service.method:
        yield f"rpc {one.name}({one.input_type}) returns ({one.output_type});"


def _members(message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    if message.reserved_range:
        yield f"reserved {', '.join(str(one.start) for one in message.reserved_range)};"
    if message.reserved_name:
        yield f"reserved {', '.join(map(_quoted, message.reserved_name))};"
    entries = {one.name: one for one in message.nested_type if one.options.map_entry}
    for one in message.nested_type:
        if one.name not in entries:
            yield _block(f"message {one.name}", _members(one))
    real = [one for one in message.field if one.HasField("oneof_index") and not one.proto3_optional]
    if real:
        yield _block(f"oneof {message.oneof_decl[0].name}", [_declared(one, "") for one in real])
    for one in message.field:
        if one not in real:
            yield _field(one, entries)


def _field(field: descriptor_pb2.FieldDescriptorProto, entries: dict[str, descriptor_pb2.DescriptorProto]) -> str:
    entry = entries.get(field.type_name.rpartition(".")[2])
    if field.label == _Field.LABEL_REPEATED and entry is not None:
        return f"map<string, {_type(entry.field[1])}> {field.name} = {field.number}{_options(field)};"
    if field.label == _Field.LABEL_REPEATED:
        return _declared(field, "repeated ")
    return _declared(field, "optional " if field.proto3_optional else "")


def _declared(field: descriptor_pb2.FieldDescriptorProto, label: str) -> str:
    return f"{label}{_type(field)} {field.name} = {field.number}{_options(field)};"


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    return _NAMES.get(field.type) or field.type_name


def _options(field: descriptor_pb2.FieldDescriptorProto) -> str:
    """The JSON name, where it is not the one that protobuf would make."""
    first, *rest = field.name.split("_")
    usual = first + "".join(part[:1].upper() + part[1:] for part in rest)
    return "" if field.json_name == usual else f" [json_name = {_quoted(field.json_name)}]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _values(enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[str]:
    if enum.reserved_range:
        yield f"reserved {', '.join(str(one.start) for one in enum.reserved_range)};"
    if enum.reserved_name:
        yield f"reserved {', '.join(map(_quoted, enum.reserved_name))};"
    for one in enum.value:
        yield f"{one.name} = {one.number};"
