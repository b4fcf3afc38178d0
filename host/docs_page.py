"""`GET /docs`: one self-contained page that renders the OpenAPI document; it loads nothing but that document."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files
from string import Template

_PARTS = {"style": "docs.css", "script": "docs.js", "page": "docs.html"}


@cache
def _part(name: str) -> str:
    return (files("host") / "pages" / _PARTS[name]).read_text(encoding="utf-8").rstrip("\n")


def docs_page(openapi_path: str, nonce: str = "") -> str:
    """The page; its script fetches `openapi_path` from the host that served it.

    Style and script are one element each, with no inline handlers or style attributes, so that a policy can name them
    by `nonce` or by their hashes (`docs_policy`).
    """
    attribute = f' nonce="{html.escape(nonce, quote=True)}"' if nonce else ""
    return Template(_part("page")).substitute(
        nonce=attribute, style=_part("style"), script=_part("script"), document=html.escape(openapi_path, quote=True)
    )


def docs_policy() -> str:
    """The Content-Security-Policy of the page: its own style and script by their hashes, requests to its host alone."""
    return (
        f"default-src 'none'; style-src {_source('style')}; script-src {_source('script')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source(name: str) -> str:
    digest = hashlib.sha256(_part(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
