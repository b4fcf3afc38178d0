"""Blobs: bytes of any length under a key, one part for each plugin and tenant."""

from core_plugins.files.plugin import plugin as plugin
