"""The kernel of the tests, with the plugin of this folder in it, installed as an operator would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from plugin_api.testing import KernelProcess

FOLDER = Path(__file__).parents[1]
PK = Path(sys.executable).parent / "pk"


@pytest.fixture(scope="session")
def kernel_process(kernel_process: KernelProcess) -> KernelProcess:
    """One real kernel for all tests; `tenant` is a customer of its own in it for each."""
    install = [str(PK), "plugins", "install", str(FOLDER), "--data-dir", str(kernel_process.data_dir)]
    ran = subprocess.run(install, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return kernel_process
