"""What tests of several packages share. `pythonpath` in `pyproject.toml` makes it a package of its own name."""
