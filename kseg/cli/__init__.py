"""The `kseg` command."""
