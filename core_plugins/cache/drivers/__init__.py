"""Valkey, and the server itself in the embedded profile."""
