"""The processes that run Python code of Apps: load it, run one Job after another in isolation, tell how it went.

Started by launchers and agents, whose own processes never load such code: opening an envelope runs whatever its author
put in. A worker runs as the Site's user and holds nothing of the launcher's or the agent's. Importing this package does
nothing, and its modules import little: a worker is to be up in a fraction of a second.
"""
