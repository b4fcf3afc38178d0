"""gRPC reflection and health over the current table: what is published or withdrawn shows at the next question.

Nobody needs a token for them; what they tell is the same for everybody, and of no tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from host.wire.descriptors import DEPENDENCIES, symbols
from host.wire.served import ServedContract

HEALTH: Final = "grpc.health.v1.Health"
VERSIONS: Final = ("v1", "v1alpha")
REFLECTION: Final = tuple(f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS)
SYMBOL_LENGTH_MAX: Final = 1_000
WATCH_EVERY_S: Final = 1.0
"""How often a watched service is looked at: plugins come and go without telling us."""
_File: Final = descriptor_pb2.FileDescriptorProto


def _own_files() -> dict[str, Any]:
    """What the door itself serves and imports, by name. The library has reflection v1alpha; v1 differs by its name."""
    found = [_File.FromString(one.serialized_pb) for one in (*DEPENDENCIES, health_pb2.DESCRIPTOR)]
    alpha = reflection_pb2.DESCRIPTOR.serialized_pb
    text = _File.FromString(alpha)
    final = _File.FromString(alpha)
    final.name, final.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for message in final.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace("v1alpha", "v1")
    for service in final.service:
        for method in service.method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
    return {one.name: one for one in (*found, text, final)}


class Reflection:
    """Answers `ServerReflectionInfo`; `contracts` tells what is served now."""

    def __init__(self, contracts: Callable[[], Iterator[ServedContract]]) -> None:
        self._contracts = contracts
        own = _own_files()
        self._files = {name: file.SerializeToString() for name, file in own.items()}
        self._imports: dict[str, tuple[str, ...]] = {name: tuple(file.dependency) for name, file in own.items()}
        self._symbols = {symbol: name for name, file in own.items() for symbol in symbols(file)}

    def services(self) -> list[str]:
        """The full names of all services, sorted."""
        found = [name for contract in self._contracts() for name in contract.services]
        return sorted([*found, HEALTH, *REFLECTION])

    def answer(self, request: Any) -> Any:
        """The answer to one question."""
        response = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            listed = [reflection_pb2.ServiceResponse(name=name) for name in self.services()]
            response.list_services_response.service.extend(listed)
        elif kind == "file_by_filename":
            self._add(response, self._by_name(request.file_by_filename))
        elif kind == "file_containing_symbol":
            self._add(response, self._by_symbol(request.file_containing_symbol))
        elif kind == "all_extension_numbers_of_type":
            wanted = request.all_extension_numbers_of_type
            if self._by_symbol(wanted):
                response.all_extension_numbers_response.base_type_name = wanted
            else:
                _refuse(response, StatusCode.NOT_FOUND, "there is no such type here")
        elif kind == "file_containing_extension":
            _refuse(response, StatusCode.NOT_FOUND, "nothing here is extended")
        else:
            _refuse(response, StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        return response

    def _add(self, response: Any, files: list[bytes]) -> None:
        if files:
            response.file_descriptor_response.file_descriptor_proto.extend(files)
        else:
            _refuse(response, StatusCode.NOT_FOUND, "nothing of that name is served here")

    def _by_name(self, name: str) -> list[bytes]:
        if name in self._files:
            return self._with_imports(self._files[name], self._imports[name])
        for contract in self._contracts():
            if contract.contract.file == name:
                return self._with_imports(contract.file, contract.dependencies)
        return []

    def _by_symbol(self, symbol: str) -> list[bytes]:
        if len(symbol) > SYMBOL_LENGTH_MAX:
            return []
        symbol = symbol.removeprefix(".")
        if symbol in self._symbols:
            return self._by_name(self._symbols[symbol])
        for contract in self._contracts():
            if symbol in contract.symbols:
                return self._with_imports(contract.file, contract.dependencies)
        return []

    def _with_imports(self, file: bytes, names: tuple[str, ...]) -> list[bytes]:
        return [file, *(self._files[name] for name in names)]


def _refuse(response: Any, status: StatusCode, text: str) -> None:
    response.error_response.error_code = status.value[0]
    response.error_response.error_message = text


class Health:
    """`grpc.health.v1.Health`: serving from the moment that the worker is ready until it drains."""

    def __init__(self, services: Callable[[], list[str]], is_ready: Callable[[], bool]) -> None:
        self._services = services
        self._is_ready = is_ready
        self._changed = asyncio.Event()

    def status(self, service: str) -> int | None:
        """How a service is, the whole server under the empty name; None when there is none of that name."""
        if service and service not in self._services():
            return None
        serving = health_pb2.HealthCheckResponse.ServingStatus
        status: int = serving.SERVING if self._is_ready() else serving.NOT_SERVING
        return status

    def close(self) -> None:
        """Tell everybody who watches, and end their streams."""
        self._changed.set()

    async def watch(self, service: str) -> AsyncIterator[int]:
        """How a service is now, and again when that changes; the end when the server drains."""
        unknown: int = health_pb2.HealthCheckResponse.ServingStatus.SERVICE_UNKNOWN
        told: int | None = None
        while True:
            now = self.status(service)
            now = unknown if now is None else now
            if now != told:
                yield now
                told = now
            if self._changed.is_set():
                return
            await _until(self._changed, WATCH_EVERY_S)


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
