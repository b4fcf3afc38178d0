"""What checks found in a package: errors refuse it, warnings are told."""

from __future__ import annotations

from typing import Any

import pytest

from host.changes.findings import warnings_of
from host.finding import Finding
from plugin_api.errors import InvalidRequest


def finding(**changes: Any) -> Finding:
    """A finding of a rule."""
    usual = {"id": "a_rule", "severity": "warning", "message": "it is wrong.", "why": "because", "remedy": "mend it"}
    return Finding(**{**usual, **changes})


def test_warnings_are_told_and_infos_are_not() -> None:
    found = [
        finding(file="acme_crm/x.py", line=3),
        finding(severity="info"),
        finding(message="acme_crm/y.py is odd", file="acme_crm/y.py"),
    ]

    assert warnings_of("acme.crm", found) == [
        "acme_crm/x.py:3: it is wrong; mend it [a_rule]",
        "acme_crm/y.py is odd; mend it [a_rule]",
    ]


def test_errors_refuse_by_the_plugins_name_and_list_every_rule() -> None:
    found = [finding(), finding(severity="error", id="one"), finding(severity="error", id="two", file="acme_crm/x.py")]
    with pytest.raises(InvalidRequest) as refused:
        warnings_of("acme.crm", found)

    assert (refused.value.code, refused.value.detail[:9]) == ("plugin_failed", "acme.crm:")
    assert [one.code for one in refused.value.violations] == ["one", "two"]
