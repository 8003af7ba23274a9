"""What can be asked of the service: one file per verb, one transaction per call, no HTTP, no SQL, no clock.

Signature: `verb(tx, principal, message, now) -> reply`. Routes, web pages and the simulation call
the same functions.
"""
