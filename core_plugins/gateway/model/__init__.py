"""Keys, limits and breakers as pure machines: no I/O, and the time is told to them."""
