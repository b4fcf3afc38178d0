"""Who acts, as one kernel tells another: believed only from a client whose certificate says that it is a kernel."""

from __future__ import annotations

import time
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from plugin_api.call import Actor, ActorKind, Call
from plugin_api.errors import NotAllowed, Unreadable

CALLER: Final = "pk-caller-bin"
"""The metadata that it travels in."""
KERNEL_NAME: Final = "urn:platform-kernel:kernel"
"""The subject alternative name (URI) that makes a certificate a kernel's."""
FRESH_S: Final = 60.0
"""How far the two kernels' clocks may differ, with the time on the way."""
CALLER_BYTES_MAX: Final = 2_048
NOT_A_KERNEL: Final = "not_a_kernel"


class Caller(Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Who acts, and for which one method that was said. What the actor may do is not part of it."""

    path: str
    issued_at: float
    """Seconds since 1970."""
    tenant_id: UUID | None
    kind: ActorKind
    id: str
    session_id: UUID | None = None
    address: str = ""
    user_agent: str = ""

    @property
    def actor(self) -> Actor:
        """Who acts."""
        return Actor(self.kind, self.id)


_decoder: Final = msgspec.msgpack.Decoder(Caller)


def tell_caller(call: Call, path: str) -> bytes:
    """What goes into the metadata of one call of `path`."""
    identity = call.identity
    told = Caller(
        path,
        time.time(),
        call.tenant_id if call.has_tenant else None,
        call.actor.kind,
        call.actor.id,
        identity.session_id if identity is not None else None,
        call.address,
        call.user_agent,
    )
    return msgspec.msgpack.encode(told)


def read_caller(data: bytes, path: str) -> Caller:
    """Read it back.

    Raises:
        Unreadable: code `bad_header`: it is none.
        NotAllowed: code `not_a_kernel`: it was said for another method, or too long ago.
    """
    if len(data) > CALLER_BYTES_MAX:
        raise Unreadable(f"the metadata {CALLER} is longer than {CALLER_BYTES_MAX} bytes", code="bad_header")
    try:
        caller = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Unreadable(f"the metadata {CALLER} does not say who acts", code="bad_header") from None
    if caller.path != path:
        raise NotAllowed(f"the metadata {CALLER} was made for another method; make it anew", code=NOT_A_KERNEL)
    age_s = time.time() - caller.issued_at
    if not -FRESH_S <= age_s <= FRESH_S:
        raise NotAllowed(
            f"the metadata {CALLER} was made {age_s:.0f} s ago and holds for {FRESH_S:.0f}; set the clocks of both kernels",
            code=NOT_A_KERNEL,
        )
    return caller


def require_kernel(context: Any) -> None:
    """Let only kernels go on: a client certificate that our authority signed, and that names a kernel.

    Raises:
        NotAllowed: code `not_a_kernel`.
    """
    told = context.auth_context()
    is_tls = b"ssl" in told.get("transport_security_type", ())
    if not is_tls or KERNEL_NAME.encode() not in told.get("x509_subject_alternative_name", ()):
        raise NotAllowed(
            f"only a kernel may say who acts: show a client certificate whose alternative names have {KERNEL_NAME}, "
            f"or leave the metadata {CALLER} out",
            code=NOT_A_KERNEL,
        )
