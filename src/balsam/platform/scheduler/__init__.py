"""Batch schedulers behind one protocol (`base.Scheduler`), one module for each."""
