"""Operations by hand, without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Struct

from host.binding import compile_bindings
from host.encoding import compile_encoder
from host.wire.lock import Lock, grown
from host.wire.served import ServedContract
from host.wire.shapes import contract_of


def operation(
    request: type[Struct], answer: Any, name: str = "echo", service: str = "EchoOperations", **more: Any
) -> Any:
    """What a registrar would have made of a method."""
    bind_fields = compile_bindings(request, placeholders=(), takes_body=True)[1]
    bound = SimpleNamespace(id=f"acme.crm.{name}", spec=SimpleNamespace(stream=more.pop("stream", False)))
    return SimpleNamespace(
        bound=bound, request_type=request, answer_type=answer, service=service, bind_fields=bind_fields,
        encode=compile_encoder(answer) if answer is not None else None, **more,
    )  # fmt: skip


def served(*operations: Any, lock: Lock | None = None) -> ServedContract:
    """Their contract at work."""
    before = lock or Lock()
    contract = contract_of("pk.x.acme_crm.v1", operations, before)
    return ServedContract(contract, grown(before, contract))


@pytest.fixture
def make_served() -> Callable[..., ServedContract]:
    return served


@pytest.fixture
def make_operation() -> Callable[..., Any]:
    return operation
