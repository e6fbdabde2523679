"""The `lira` command line."""
