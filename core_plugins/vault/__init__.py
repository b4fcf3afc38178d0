"""Secrets and keys: envelope encryption, a data key for each tenant under a key-encryption key."""

from core_plugins.vault.plugin import plugin as plugin
