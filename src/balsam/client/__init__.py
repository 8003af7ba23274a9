"""The SDK behind `balsam.api`: transport, credentials, models, queries and the watcher that waits by push.

Site agent, launcher and command use `client.transport` and `client.settings` alone; nothing here knows the service's
insides. Importing it opens no connection and reads no file.
"""
