"""The package store: what is asked for becomes a folder of its own, beside an environment that is never written to.

Synchronous, for a process of its own: nothing here imports a plugin's code, but building a folder runs its author's.
"""

from host.store.builder import Builder
from host.store.packages import Package, PackageDamaged
from host.store.pip_process import Sources
from host.store.shelf import Store

__all__ = ["Builder", "Package", "PackageDamaged", "Sources", "Store"]
