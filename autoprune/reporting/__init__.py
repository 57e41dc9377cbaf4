"""Saved results -> console, tables, plots, HTML. Reads what the other stages made; measures nothing itself."""
