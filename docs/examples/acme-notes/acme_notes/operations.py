"""What can be done with notes. REST, OpenAPI and the in-process call are made from these declarations."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from acme_notes.settings import Settings
from acme_notes.storage import count_notes, find_note, insert_note, list_notes, lock_note, update_note
from plugin_api import Annotated, Call, Meta, Struct, errors, operation
from plugin_api.ids import uuid7
from plugin_api.pages import Page, PageRequest, keyset
from plugin_api.ports.database import Row

Text = Annotated[str, Meta(min_length=1, max_length=10_000)]


class NewNote(Struct, frozen=True, forbid_unknown_fields=True):
    """A note to write."""

    text: Text


class NoteRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which note."""

    note_id: UUID


class NotePatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A change of one note."""

    note_id: UUID
    text: Text


class NoteList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which notes, in which order."""

    sort: Literal["created_at", "-created_at"] = "created_at"


class Note(Struct, frozen=True):
    """A note. `id` and `version` give its answers `Location` and `ETag`."""

    id: UUID
    text: str
    version: int
    created_at: datetime


class NoteOperations:
    """The capability `acme.notes`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @operation("POST /notes", permission="note.create", status=201)
    async def create_note(self, call: Call, request: NewNote) -> Note:
        """Write a note. 409 `notes_full` when the tenant has as many as it may."""
        tx = await call.tx()
        if await count_notes(tx) >= self._settings.notes_max:
            limit = self._settings.notes_max
            raise errors.Conflict(f"a tenant has at most {limit} notes; ask the operator for more", code="notes_full")
        note_id = uuid7()
        await insert_note(tx, note_id, request.text)
        return _present(await find_note(tx, note_id))

    @operation("GET /notes/{note_id}", permission="note.read")
    async def get_note(self, call: Call, request: NoteRef) -> Note:
        """Answer one note."""
        return _present(await find_note(await call.tx(), request.note_id))

    @operation("PATCH /notes/{note_id}", permission="note.update")
    async def update_note(self, call: Call, request: NotePatch) -> Note:
        """Change a note in the version that the caller has read."""
        tx = await call.tx()
        locked = await lock_note(tx, request.note_id)
        if locked is None:
            raise errors.NotFound("there is no such note in this tenant")
        call.expect_version(locked["version"])
        await update_note(tx, request.note_id, request.text)
        return _present(await find_note(tx, request.note_id))

    @operation("GET /notes", permission="note.read")
    async def list_notes(self, call: Call, request: NoteList) -> Page[Note]:
        """List notes in the order in which they were written."""
        place = keyset(call, request)
        rows = await list_notes(await call.tx(), place, request.limit + 1)
        return place.page(call, rows, request.limit, _note)


def _present(row: Row | None) -> Note:
    if row is None:
        raise errors.NotFound("there is no such note in this tenant")
    return _note(row)


def _note(row: Row) -> Note:
    return Note(row["id"], row["text"], row["version"], row["created_at"])
