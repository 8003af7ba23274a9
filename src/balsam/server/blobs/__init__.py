"""Content of files on its way through the service: uploads in parts, and where complete blobs are kept.

What exists and whose it is says the store (BlobRow); here are the bytes.
"""
