"""The documentation page stands alone, and its policy names what it holds."""

from __future__ import annotations

import base64
import hashlib
import re

from host.docs_page import docs_page, docs_policy

PAGE = docs_page("/api/v1/openapi.json")


def test_it_is_one_document_that_loads_nothing_else() -> None:
    assert PAGE.startswith("<!doctype html>")
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", PAGE)
    assert not re.findall(r"@import|(?<![A-Za-z])url\((?!data:)", PAGE)
    assert (PAGE.count("<style"), PAGE.count("<script")) == (1, 1)


def test_nothing_is_inline_but_the_two_elements() -> None:
    markup = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", PAGE, flags=re.DOTALL)

    assert not re.findall(r"""\s(on[a-z]+|style)=""", markup)
    assert "$" not in markup
    assert "innerHTML" not in PAGE


def test_the_policy_names_both_by_their_hashes() -> None:
    for name in ("style", "script"):
        content = re.findall(rf"<{name}[^>]*>(.*?)</{name}>", PAGE, flags=re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in docs_policy()
    assert "unsafe" not in docs_policy()


def test_values_are_escaped() -> None:
    page = docs_page('/x"><script>', nonce='a"b')

    assert "/x&quot;&gt;&lt;script&gt;" in page
    assert 'nonce="a&quot;b"' in page


def test_it_is_accessible_in_outline() -> None:
    for part in (
        'lang="en"',
        'name="viewport"',
        "<main",
        "<nav",
        "<h1" if "<h1" in PAGE else '"h1"',
        'role="status"',
        "aria-label",
    ):
        assert part in PAGE
    assert "prefers-color-scheme: dark" in PAGE
    assert "prefers-reduced-motion" in PAGE
