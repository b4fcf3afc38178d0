"""Pure types and rules of identity and access: no async, no I/O."""
