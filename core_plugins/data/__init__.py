"""The relational store: PostgreSQL behind the tenant wall, and the migrations of every plugin's schema."""

from core_plugins.data.plugin import plugin as plugin
