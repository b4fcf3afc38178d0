"""What PostgreSQL and asyncpg raise, told in the kernel's own errors."""

from __future__ import annotations

from typing import Final

import asyncpg

from core_plugins.data.drivers.asyncpg_types import field_of, state_of
from plugin_api.errors import (
    Conflict,
    DeadlinePassed,
    KernelBug,
    KernelError,
    StoreUnavailable,
    Unavailable,
    UniqueViolation,
)

HAD_FAILED: Final = "a statement had failed and its error was caught: the transaction could only be rolled back"
_AWAY_STATES: Final = frozenset(
    {
        "25P03",  # idle in transaction for too long: the session was ended
        "25P04",  # transaction_timeout, likewise
        "57P01",  # shut down by the administrator
        "57P02",  # another backend crashed
        "57P03",  # starting up, or shutting down
        "57P04",  # the database was dropped
        "57P05",  # idle for too long
    }
)
_AWAY_CLASSES: Final = ("08", "53", "58")
"""Connection exceptions, insufficient resources (also too many connections, disk full), system errors."""
_AGAIN_STATES: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available."""


def is_away(error: BaseException) -> bool:
    """Tell whether the database, or this connection to it, is gone; a statement may or may not have run."""
    if isinstance(error, asyncpg.PostgresError):
        state = state_of(error)
        return state in _AWAY_STATES or state.startswith(_AWAY_CLASSES)
    if isinstance(error, asyncpg.InterfaceError):
        return "closed" in str(error)
    if is_stale(error) or isinstance(error, TimeoutError):
        return False
    return isinstance(error, (OSError, asyncpg.InternalClientError))


def was_not_executed(error: BaseException) -> bool:
    """Tell whether a COMMIT that failed cannot have happened: asyncpg refused to send it, since it knew already that the
    session was over, or the server ended the session for waiting too long, which it does between statements only."""
    if isinstance(error, asyncpg.PostgresError):
        return state_of(error) == "25P03"
    if isinstance(error, asyncpg.InternalClientError):
        return "cannot switch to state" in str(error)
    return isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)


def is_standby(error: BaseException) -> bool:
    """Tell whether a BEGIN failed because the server only reads: it has become a standby under us."""
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def is_left_over(error: BaseException) -> bool:
    """Tell whether a BEGIN failed for what happened before it: the connection has died, a former borrower has set a
    `statement_timeout` for the session, which RESET ALL comes too late for, or the session does not know yet that the role
    was granted: PostgreSQL keeps a list of roles that was read while another session granted one."""
    is_behind = isinstance(error, asyncpg.InsufficientPrivilegeError) and "set role" in str(error)
    return is_away(error) or is_standby(error) or is_behind or isinstance(error, asyncpg.QueryCanceledError)


def leaves_connection_usable(error: BaseException) -> bool:
    """Tell whether the connection is still in step with the server after `error`, so that ROLLBACK can be sent on it."""
    if isinstance(error, asyncpg.PostgresError):
        return not is_away(error)
    # asyncpg's client-side DataError (an argument of the wrong type, nothing was sent) has no public name.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def is_stale(error: BaseException) -> bool:
    """Tell whether prepared statements of this connection do not fit the schema any more."""
    if isinstance(error, (asyncpg.OutdatedSchemaCacheError, asyncpg.InvalidCachedStatementError)):
        return True
    return isinstance(error, asyncpg.InvalidSQLStatementNameError)


def mapped(error: BaseException) -> KernelError:
    """Return the kernel's error for whatever a statement raised; raise it `from` the original.

    Texts of errors that reach callers hold names of tables and constraints, never values.
    """
    if isinstance(error, TimeoutError):
        return DeadlinePassed("the database did not answer until the deadline; try again")
    if is_stale(error):
        return Unavailable("the schema changed while the statement was prepared; try again", code="schema_changed")
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return _forbidden(error)
    if is_away(error):
        return StoreUnavailable("the database went away; nothing was changed; try again")
    if isinstance(error, asyncpg.QueryCanceledError):
        return DeadlinePassed("the statement was ended at the call's deadline; try again, or with less work")
    if isinstance(error, asyncpg.InFailedSQLTransactionError):
        return KernelBug(HAD_FAILED)
    if isinstance(error, asyncpg.PostgresError):
        return _by_state(error)
    return KernelBug(f"the statement could not be sent: {type(error).__name__}: {error}")


def _forbidden(error: asyncpg.IntegrityConstraintViolationError) -> Conflict:
    table = field_of(error, "table_name")
    constraint = field_of(error, "constraint_name") or field_of(error, "column_name")
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(f"{table}: there is one like it already ({constraint})", constraint=constraint)
    return Conflict(f"{table}: the constraint {constraint} forbids it")


def _by_state(error: asyncpg.PostgresError) -> KernelError:
    state = state_of(error)
    if state in _AGAIN_STATES:
        return Unavailable("another transaction was in the way; try again")
    return KernelBug(f"the database refused the statement: {state} {error}")
