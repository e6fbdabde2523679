"""`python -m lira_hf.cli` is the `lira` command."""

from .main import app


app()
