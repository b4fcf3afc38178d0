"""The gateway: limits, breakers and idempotency keys, the same for every door."""

from core_plugins.gateway.plugin import plugin as plugin
