"""What the operator of a kernel may set. `pk settings acme.crm` shows it."""

from __future__ import annotations

from plugin_api import Annotated, Meta, Struct
from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Section `acme.crm`: `PK_ACME_CRM__LEADS_MAX=500` in the environment."""

    leads_max: Annotated[int, Meta(ge=1, le=1_000_000), setting("Open leads that one tenant may have.")] = 10_000
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z"), setting("Currency of deals that name none.")] = "EUR"
