"""Child processes: what supervises them, and how many this machine can hold."""
