"""PostgreSQL through asyncpg, and the server itself in the embedded profile."""
