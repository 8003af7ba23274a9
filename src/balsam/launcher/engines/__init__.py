"""How the ranks of a Job are started where it was placed: directly, or by the machine's mpirun.

An engine turns a rendered command into words; the launcher's `starter` executes them.
"""
