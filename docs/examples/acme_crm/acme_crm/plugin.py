"""Wiring: the only file that knows all others."""

from __future__ import annotations

from plugin_api import Registrar, hookimpl
from plugin_api.contracts.iam import IAM

from acme_crm.events import EVENTS
from acme_crm.operations import CrmOperations
from acme_crm.reactions import CrmReactions
from acme_crm.settings import Settings


class CrmPlugin:
    """`acme.crm`."""

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Register operations, reactions and events. The handle to `iam` stays good when iam is upgraded."""
        iam = registrar.services.get(IAM)  # named in the manifest's `requires`
        registrar.operations(CrmOperations(registrar.settings or Settings(), iam))
        registrar.reactions(CrmReactions())
        registrar.events(EVENTS)


plugin = CrmPlugin()
