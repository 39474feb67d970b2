"""The HTTP API: one table of routes, each with its role and its types, and the handlers behind it."""
