"""A plugin that asks another for whatever it is told: the third door, beside REST and gRPC."""

from __future__ import annotations

from tests.plugins.conftest import Recipe

TOP = """import json
from typing import Any

import msgspec
from plugin_api import ServiceKey
from plugin_api.errors import KernelError
"""
OPERATIONS = """
    def __init__(self, services):
        self._services = services

    @operation("POST /known", status=200)
    async def ask(self, call: Call, request: Said) -> Said:
        \"\"\"Ask as somebody.\"\"\"
        return Said(await self._ask(call, **json.loads(request.text)))

    @operation("POST /unknown", public=True, status=200)
    async def ask_as_nobody(self, call: Call, request: Said) -> Said:
        \"\"\"Ask as nobody.\"\"\"
        return Said(await self._ask(call, **json.loads(request.text)))

    async def _ask(self, call, capability, name, fields):
        asked = msgspec.defstruct("Asked", [(field, Any) for field in fields])(**fields)
        try:
            answer = await getattr(self._services.get(ServiceKey(capability)), name)(call, asked)
        except KernelError as error:
            places = {one.pointer: one.code for one in error.violations}
            return json.dumps({"code": error.code, "detail": str(error), "places": places})
        return json.dumps({"code": "OK", "value": msgspec.to_builtins(answer)})
"""
INSIDE = Recipe(
    "acme.inside",
    manifest='requires = ["iam >=1"]\n',
    more=OPERATIONS,
    operations_top=TOP,
    made_with="registrar.services",
)
