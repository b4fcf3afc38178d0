"""One gRPC call as its door sees it: metadata, message, and what the pipeline asks of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from google.protobuf.message import DecodeError

from host.expiry import Expiry
from host.incoming import CallOfDoor, read_request_id
from host.pipeline import CompiledOperation
from host.remote.assertion import CALLER
from host.tracing import Span, read_traceparent
from host.wire.served import ServedMethod
from plugin_api.call import Call, Trace
from plugin_api.errors import KernelBug, PayloadTooLarge, Unreadable
from plugin_api.pipeline import Credentials

_SINGLE: Final = frozenset({"authorization", CALLER, "idempotency-key", "if-match", "x-request-id", "traceparent"})
_AGENT_LENGTH_MAX: Final = 200


class RpcCall(CallOfDoor):
    """One call; implements `host.pipeline.Inbound`."""

    __slots__ = (
        "_body_limit",
        "_data",
        "_doubled",
        "_fields",
        "address",
        "assertion",
        "call",
        "compiled",
        "deadline_s",
        "declared_bytes",
        "expiry",
        "idempotency_key",
        "if_match",
        "method",
        "request_id",
        "span",
        "started",
        "trace",
        "user_agent",
    )

    def __init__(self, metadata: Sequence[tuple[str, str]], peer: str, data: bytes, expiry: Expiry) -> None:
        self.started = time.monotonic()
        self._data = data
        self._body_limit = 0
        fields = self._fields = dict(metadata)
        self._doubled = "" if len(fields) == len(metadata) else _doubled(metadata)
        asserted: object = fields.get(CALLER)  # of names that end in -bin the values are bytes
        self.assertion = asserted if isinstance(asserted, bytes) else None if asserted is None else b""
        """Who acts, as another kernel says."""
        self.request_id = read_request_id(fields.get("x-request-id", ""))
        self.idempotency_key = fields.get("idempotency-key")
        self.if_match = fields.get("if-match")
        traceparent = fields.get("traceparent")
        self.trace: Trace | None = read_traceparent(traceparent) if traceparent else None
        self.span: Span | None = None
        self.user_agent = fields.get("user-agent", "")[:_AGENT_LENGTH_MAX]
        self.address = address_of(peer)
        self.declared_bytes = len(data)
        self.deadline_s: float | None = None
        self.expiry = expiry
        self.call: Call | None = None
        self.compiled: CompiledOperation | None = None
        self.method: ServedMethod | None = None

    def open(self, compiled: CompiledOperation, method: ServedMethod, body_limit: int) -> None:
        """Make it a call of this operation.

        Raises:
            Unreadable: code `bad_header`, when metadata that must be single stands twice.
        """
        self.compiled, self.method, self._body_limit = compiled, method, body_limit
        if self._doubled:
            raise Unreadable(f"the metadata {self._doubled} stands twice; send it once", code="bad_header")

    def credentials(self) -> Credentials:
        """What the caller showed. Cookies are for browsers, which do not come this way."""
        return Credentials(self._fields.get("authorization"), address=self.address, unsafe=True)

    @property
    def values(self) -> tuple[str, ...]:
        """What would stand in the path of REST, for the record of a refusal: empty where the message cannot be read."""
        compiled, method = self.compiled, self.method
        if compiled is None or method is None:
            return ()
        try:
            fields = method.read(method.parse(self._data)) if len(self._data) <= self._body_limit else {}
        except DecodeError:
            fields = {}
        return tuple(quote(str(fields.get(name, "")), safe="") for name in compiled.registered.bound.spec.placeholders)

    def request(self) -> Any:
        """Read and validate the request of the operation."""
        compiled, method = self.compiled, self.method
        if compiled is None or method is None:
            raise KernelBug("a request was read before its operation was found")
        if len(self._data) > self._body_limit:
            raise PayloadTooLarge(
                f"the message is larger than {self._body_limit} bytes, the most that this operation takes; send less at once"
            )
        try:
            message = method.parse(self._data)
        except DecodeError:
            name = compiled.registered.request_type.__name__
            raise Unreadable(
                f"the bytes are no message {name} in protobuf; make them from the description that reflection gives",
                code="malformed_message",
            ) from None
        return compiled.registered.bind_fields(method.read(message))


def _doubled(metadata: Sequence[tuple[str, str]]) -> str:
    """The last name that must be single and stands twice, or empty."""
    names = [name for name, _ in metadata]
    return next((name for name in reversed(names) if name in _SINGLE and names.count(name) > 1), "")


def address_of(peer: str) -> str:
    """The network address in what gRPC says of a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`; empty for others."""
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return unquote(place).rpartition(":")[0].strip("[]")
