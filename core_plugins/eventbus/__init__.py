"""Events: an outbox relayed into a log, consumers with progress of their own, dead letters, streams."""

from core_plugins.eventbus.plugin import plugin as plugin
