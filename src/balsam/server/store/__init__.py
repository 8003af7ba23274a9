"""Where the rows live: one protocol, several stores. SQL is nowhere else."""
