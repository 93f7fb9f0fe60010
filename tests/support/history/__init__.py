"""Histories of real clients: every call with its times, written as it happens, judged afterwards.

`record` writes and reads the file, `anomalies` and `linear` judge it (pure).
"""
