"""Bytes on disk and where they come from: files written whole, locks, seals, the cache, packages, assets, the hub.

May import `process`; knows no config and no run.
"""
