"""The trial: a package is registered once in a throw-away process before any worker meets it.

One that crashes, hangs or changes what everybody shares does so there, and is told file, line, why and what to do.
"""

from host.finding import Finding
from host.trial.findings import Trial, TriedOperation
from host.trial.running import try_out, trying

__all__ = ["Finding", "Trial", "TriedOperation", "try_out", "trying"]
