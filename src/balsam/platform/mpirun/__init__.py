"""What starts the ranks of a Job: one adapter for each mpiexec dialect, and `plain` for machines without MPI."""
