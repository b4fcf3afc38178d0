"""Wiring: the only file that knows all others."""

from __future__ import annotations

from acme_notes.operations import NoteOperations
from acme_notes.settings import Settings
from plugin_api import Registrar, hookimpl


class NotesPlugin:
    """`acme.notes`."""

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Register the operations."""
        registrar.operations(NoteOperations(registrar.settings or Settings()))


plugin = NotesPlugin()
