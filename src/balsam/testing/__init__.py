"""Shipped test suites for authors of back ends; each module needs pytest and names what it tests."""
