"""What differs between machines: schedulers, MPI launchers, node types and facts about known machines.

Agent and launcher ask `registry` for a back end by name. Nothing in here knows the service or a Job's life.
"""
