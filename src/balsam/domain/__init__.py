"""Pure rules of the product: states, leases, packing, templates, paths.

Standard library only; nothing here performs I/O, reads a clock or knows HTTP or SQL. Service, site agent and launcher
all decide by these rules, and the seeded simulation runs the very same code.
"""
