"""Costs estimated by the TPU compiler, which runs in processes of its own."""
