"""The `fastbn` command: what only it needs, typer and rich."""
