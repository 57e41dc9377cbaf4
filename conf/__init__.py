"""The Hydra tree: one root config per command, one folder per group of choices."""
