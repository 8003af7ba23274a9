"""The store in PostgreSQL, for a service of several processes. Needs the extra `postgres` (psycopg)."""
