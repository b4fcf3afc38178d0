"""The code of one generation, wherever it comes from."""

from __future__ import annotations

from host import loader
from host.discovery import Found
from host.loader import LoadedCode


def load_code(found: Found, number: int) -> LoadedCode:
    """Import the code of a third party's plugin as generation `number`, apart from everything else in this process.

    A package of the store brings what it needs with it; of the environment only the plugin's own package is taken.

    Raises:
        PluginLoadError: its import failed, whatever it raised; nothing of it stays.
    """
    names = None if found.digest else {found.package.partition(".")[0]}
    return loader.load(found.home, found.target, found.id, number, names)
