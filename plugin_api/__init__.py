"""The plugin API: the only package that a plugin imports. It has a semantic version of its own."""

from __future__ import annotations

from typing import Annotated as Annotated
from typing import Final

from msgspec import Meta as Meta
from msgspec import Struct as Struct

from plugin_api import errors as errors
from plugin_api.call import Call as Call
from plugin_api.events import Event as Event
from plugin_api.hooks import hookimpl as hookimpl
from plugin_api.operation import job as job
from plugin_api.operation import on as on
from plugin_api.operation import operation as operation
from plugin_api.registrar import Registrar as Registrar
from plugin_api.services import ServiceKey as ServiceKey

API_VERSION: Final = "1.0"
"""Major and minor; minors only add."""

__all__ = [
    "API_VERSION",
    "Annotated",
    "Call",
    "Event",
    "Meta",
    "Registrar",
    "ServiceKey",
    "Struct",
    "errors",
    "hookimpl",
    "job",
    "on",
    "operation",
]
