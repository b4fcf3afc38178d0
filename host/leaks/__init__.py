"""Proof that a stopped generation is gone, and the name of what holds it when it is not."""

from host.leaks.belonging import Belonging
from host.leaks.finding import Leak, find_leaks
from host.leaks.remains import OwnAtexit, Remains, Sentinel
from host.leaks.surroundings import Surroundings

__all__ = ["Belonging", "Leak", "OwnAtexit", "Remains", "Sentinel", "Surroundings", "find_leaks"]
