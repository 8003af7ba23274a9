"""The pilot that runs inside an allocation: it acquires Jobs, packs them on nodes, runs them and reports.

Two processes matter here. The *guardian* (`guardian.py`) is started by the batch script and outlives the launcher: it
kills every rank when the launcher is gone, its lease ended or the wall time is near. The *launcher* is its child, one
thread around epoll, and starts ranks through `process.py`. Importing this package does nothing.
"""
