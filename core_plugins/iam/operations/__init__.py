"""The capability `iam`: every group of operations, composed into one class."""

from __future__ import annotations

from core_plugins.iam.operations.api_keys import ApiKeyOperations
from core_plugins.iam.operations.check import CheckOperations
from core_plugins.iam.operations.invitations import InvitationOperations
from core_plugins.iam.operations.keys import KeyOperations
from core_plugins.iam.operations.me import MeOperations
from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.operations.roles import RoleOperations
from core_plugins.iam.operations.sessions import SessionOperations
from core_plugins.iam.operations.tenants import TenantOperations
from core_plugins.iam.operations.users import UserOperations


class IamOperations(
    TenantOperations,
    SessionOperations,
    MeOperations,
    UserOperations,
    RoleOperations,
    InvitationOperations,
    ApiKeyOperations,
    CheckOperations,
    KeyOperations,
):
    """Implements `plugin_api.contracts.iam.Iam`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.providers.opens_sessions_by(self.open_session_for)
