"""Settings: read once at the start of a process, checked, frozen. Nothing else in the project reads the environment.

Sources, later ones win: defaults, `pk.toml` in the current folder, `DIR/pk.toml`, environment `PK_SECTION__NAME` (and the
other variables that a setting names), the command line. Every process reads them for itself: only what the command line
set travels from the parent to its workers, so no secret ever stands in a message, a log or an argument.
"""

from host.settings.conversion import MASK, Problem, masked
from host.settings.host_section import SECTION, HostSettings
from host.settings.observe_section import OBSERVE, ObserveSettings
from host.settings.reading import (
    ANY_SECTION,
    LoadedSettings,
    SettingEntry,
    SettingsInvalid,
    load,
    read,
    secrets_of,
)
from host.settings.remote_section import REMOTE, RemoteSettings
from host.settings.sources import COMMAND_LINE, DEFAULT, FILE_NAME, environment

__all__ = [
    "ANY_SECTION",
    "COMMAND_LINE",
    "DEFAULT",
    "FILE_NAME",
    "MASK",
    "OBSERVE",
    "REMOTE",
    "SECTION",
    "HostSettings",
    "LoadedSettings",
    "ObserveSettings",
    "Problem",
    "RemoteSettings",
    "SettingEntry",
    "SettingsInvalid",
    "environment",
    "load",
    "masked",
    "read",
    "secrets_of",
]
