"""Cloud SQL: its Admin API, a real PostgreSQL behind each instance, and the proxy to it."""
