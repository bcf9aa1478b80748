"""The `fastbn` command: what only it needs, click and rich."""
