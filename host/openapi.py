"""The OpenAPI 3.1 document of all operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def document(operations: Sequence[Any], *, title: str, version: str) -> dict[str, Any]:
    """Describe every operation."""
    paths: dict[str, Any] = {}
    for operation in operations:
        entry = {"operationId": operation.bound.id, "responses": {str(operation.status): {"description": "Success"}}}
        paths.setdefault(operation.bound.path, {})[operation.bound.method.lower()] = entry
    return {"openapi": "3.1.0", "info": {"title": title, "version": version}, "paths": paths}
