"""Notes for each tenant."""

from acme_notes.plugin import plugin as plugin
