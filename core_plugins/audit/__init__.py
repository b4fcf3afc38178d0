"""Records: who did what to what, written with what was done."""

from core_plugins.audit.plugin import plugin as plugin
