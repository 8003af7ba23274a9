"""The pages for a browser: server-rendered, reading through `server.usecases`, added to the service by `server.app`.

No build step and no framework: Jinja2, a style sheet, vendored htmx for what changes while somebody looks, one small
script for the output of a Job. docs/guides/browser.md is the user's page.
"""
