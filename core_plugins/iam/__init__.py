"""Identity and access: tenants, people, roles, sessions, API keys."""

from core_plugins.iam.plugin import plugin as plugin
