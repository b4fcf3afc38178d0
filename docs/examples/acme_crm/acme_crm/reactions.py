"""What the plugin does when something was told, here or elsewhere."""

from __future__ import annotations

from msgspec import convert
from plugin_api import Call, on
from plugin_api.events import EventEnvelope

from acme_crm.events import DEAL_CLOSED, DealClosed
from acme_crm.storage import add_to_total


class CrmReactions:
    """Keeps totals of what was won. The method's name is the consumer's: renamed, it would begin anew."""

    @on(DEAL_CLOSED)
    async def add_up(self, call: Call, event: EventEnvelope) -> None:
        """Count a deal that was won, once: the row and the note that the event is done are one transaction."""
        deal = convert(event.data, DealClosed)
        if deal.outcome == "won":
            await add_to_total(await call.tx(), deal.currency, deal.amount_minor)
