"""The OpenAPI document is true: thousands of generated requests, right and wrong, meet only what it says, and never a 5xx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)
EXAMPLES = "400" if os.environ.get("PK_SOAK") else "12"
SEED = () if os.environ.get("PK_SOAK") else ("--seed", "20261124")
ENDS_MY_SESSION = "^/api/v1/iam/(browser-)?sessions"


def _failures(output: str) -> str:
    """What failed, without the advice that follows."""
    return output.partition("= FAILURES =")[2].partition("= WARNINGS =")[0][:8000] or output[-4000:]


def strict_document(url: str, folder: Path, *, without: str = "default") -> Path:
    """The published document without its `default` answers, which would excuse any status."""
    with urllib.request.urlopen(f"{url}/api/v1/openapi.json") as answer:
        document = json.load(answer)
    for item in document["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict):
                for status in ("default", without):
                    operation.get("responses", {}).pop(status, None)
    place = folder / "openapi.json"
    place.write_text(json.dumps(document))
    return place


def fuzz(document: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis against a kernel."""
    command = [
        str(SCHEMATHESIS), "run", str(document), "--url", url, "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
        "--max-examples", EXAMPLES, "--continue-on-failure", "--no-color", *SEED, *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)


def whole(ran: subprocess.CompletedProcess[str]) -> None:
    """It ended well, and it did test something."""
    assert ran.returncode == 0, _failures(ran.stdout)
    assert "Tested: " in ran.stdout


def test_the_anonymous_meet_only_what_is_documented(kernel: Any, tmp_path: Path) -> None:
    whole(fuzz(strict_document(kernel.url, tmp_path), kernel.url))


def test_an_owner_meets_only_what_is_documented(kernel: Any, tenant: Any, tmp_path: Path) -> None:
    document = strict_document(kernel.url, tmp_path)

    whole(
        fuzz(
            document,
            kernel.url,
            "--header",
            f"Authorization: Bearer {tenant.owner.token}",
            "--exclude-path-regex",
            ENDS_MY_SESSION,
        )
    )


async def test_an_operator_meets_only_what_is_documented(kernel: Any, tmp_path: Path) -> None:
    operator = await kernel.operator()
    document = strict_document(kernel.url, tmp_path)

    whole(
        fuzz(
            document,
            kernel.url,
            "--header",
            f"Authorization: Bearer {operator.token}",
            "--include-path-regex",
            "^/api/v1/plugins",
        )
    )


def test_an_untrue_document_is_noticed(kernel: Any, tmp_path: Path) -> None:
    """The broken twin: with one status left out of the document the run fails."""
    ran = fuzz(
        strict_document(kernel.url, tmp_path, without="401"), kernel.url, "--include-path-regex", "^/api/v1/iam/me"
    )

    assert ran.returncode == 1, ran.stdout[-2000:]


def test_the_document_is_valid_openapi(kernel: Any) -> None:
    with urllib.request.urlopen(f"{kernel.url}/api/v1/openapi.json") as answer:
        validate(json.load(answer))
