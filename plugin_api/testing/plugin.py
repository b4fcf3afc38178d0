"""The pytest plugin, found by its entry point: fixtures for the tests of plugins.

`kernel` is one real kernel for the whole test session; `tenant` is a customer of its own for each test;
`fresh_kernel` makes kernels that a test may hurt. A suite that needs other options overrides `kernel_arguments` or
`kernel_environment` in its `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from typing import Protocol

import pytest

from plugin_api.testing.clock import FakeClock
from plugin_api.testing.kernel import KernelProcess, run_apart
from plugin_api.testing.people import Tenant


class FreshKernel(Protocol):
    """Starts a kernel for one test: `kernel = await fresh_kernel("--workers", "2")`."""

    def __call__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Awaitable[KernelProcess]:
        """Start it; it is stopped after the test, which fails if it leaves a process behind."""
        ...


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture(scope="session")
def kernel_arguments() -> list[str]:
    """Further words for `pk up` of `kernel`; override it."""
    return ["--no-demo"]


@pytest.fixture(scope="session")
def kernel_environment() -> dict[str, str]:
    """Further environment of `kernel`, such as `PK_SECTION__NAME` settings; override it."""
    return {}


@pytest.fixture(scope="session")
def kernel_process(kernel_arguments: list[str], kernel_environment: dict[str, str]) -> Generator[KernelProcess]:
    """The kernel of the whole test session."""
    process = KernelProcess(kernel_arguments, kernel_environment)
    try:
        run_apart(process.start())
        yield process
    finally:
        run_apart(process.close())


@pytest.fixture
def kernel(kernel_process: KernelProcess) -> KernelProcess:
    """A real kernel, shared by all tests: leave it as it was. `fresh_kernel` is for those that would not."""
    run_apart(kernel_process.until_ready())
    return kernel_process


@pytest.fixture
def tenant(kernel: KernelProcess) -> Tenant:
    """A customer of its own for the test, its owner logged in."""
    return run_apart(kernel.sign_up())


@pytest.fixture
def fresh_kernel() -> Generator[FreshKernel]:
    """Starts kernels that the test may hurt."""
    started: list[KernelProcess] = []

    async def start(*arguments: str, environment: Mapping[str, str] | None = None) -> KernelProcess:
        process = KernelProcess(["--no-demo", *arguments], environment)
        started.append(process)
        return await process.start()

    yield start
    run_apart(_close_all(started))


async def _close_all(started: list[KernelProcess]) -> None:
    failures: list[AssertionError] = []
    for process in started:
        try:
            await process.close()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
