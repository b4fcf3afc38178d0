"""Operations that are going say so: in the documentation, and with each answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from host.kernel import Kernel
from plugin_api import Call, operation
from plugin_api.errors import Conflict
from plugin_api.operation import OPERATION_ATTRIBUTE
from tests.host.conftest import NotesPlugin, open_door

PAGE = "https://example.com/why"


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    fail: bool = False


class Said(Struct, frozen=True):
    text: str


class Old:
    """Operations that are going."""

    @operation("GET /old", public=True, deprecated_since="2026-03-01", sunset="2027-03-01", deprecation_page=PAGE)
    async def old(self, call: Call, request: Nothing) -> Said:
        """Answer as long as it is there."""
        if request.fail:
            raise Conflict("not now")
        return Said("still")

    @operation("GET /marked", public=True, deprecated=True)
    async def marked(self, call: Call, request: Nothing) -> Said:
        """Answer; nobody has said since when."""
        return Said("still")


@dataclass
class OldPlugin(NotesPlugin):
    operations: Any = field(default_factory=Old)


@pytest.mark.parametrize(("query", "status"), [("", 200), ("?fail=true", 409)])
async def test_each_answer_says_since_when_and_until_when(
    bare_kernel: Kernel, tmp_path: Path, query: str, status: int
) -> None:
    door = await open_door(bare_kernel, OldPlugin(), tmp_path)
    answered, headers, _ = await door.ask(f"GET /api/v1/x/acme.notes/old{query}")
    assert answered == status
    assert headers["deprecation"] == "@1772323200"
    assert headers["sunset"] == "Mon, 01 Mar 2027 00:00:00 GMT"
    assert headers["link"] == f'<{PAGE}>; rel="deprecation sunset"; type="text/html"'

    _, headers, _ = await door.ask("GET /api/v1/x/acme.notes/marked")
    assert not {"deprecation", "sunset", "link"} & headers.keys()
    document = bare_kernel.state.openapi()
    for path in ("old", "marked"):
        assert document["paths"][f"/api/v1/x/acme.notes/{path}"]["get"]["deprecated"] is True
    await door.close()


@pytest.mark.parametrize(
    "one", [{"sunset": "2027-03-01"}, {"deprecated_since": "2026-03-01"}, {"deprecation_page": PAGE}]
)
def test_saying_when_or_why_is_saying_that(one: dict[str, Any]) -> None:
    async def act() -> None: ...

    assert getattr(operation("GET /x", **one)(act), OPERATION_ATTRIBUTE).deprecated is True


@pytest.mark.parametrize(
    "wrong",
    [{"sunset": "soon"}, {"deprecated_since": "2026-13-01"}, {"deprecation_page": 'https://a.example/">\r\nX: y'}],
)
def test_what_is_no_day_and_no_address_is_refused_at_import(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="write it like"):
        operation("GET /x", **wrong)
