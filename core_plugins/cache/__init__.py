"""The losable store: Valkey, one part for each plugin and tenant."""

from core_plugins.cache.plugin import plugin as plugin
