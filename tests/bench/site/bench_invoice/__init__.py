"""A plugin whose one operation does nothing but what the kernel does around it."""

from bench_invoice.plugin import plugin as plugin
