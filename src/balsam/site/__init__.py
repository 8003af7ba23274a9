"""The Site's side: its directory and settings, and the agent that serves it.

`control` is what the command line calls; `agent` is the process; `services` are the things it does in each pass.
"""
