"""Costs measured on this host's processor or on an attached TPU."""
