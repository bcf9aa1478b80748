"""Data that lie in files: statistics over them, standardized copies, statistics files."""
