"""Layers that works of the literature bring with them, and networks of these."""
