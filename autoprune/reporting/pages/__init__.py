"""Pages of runs: one HTML file each, made from what a run folder has saved, that needs nothing else."""
