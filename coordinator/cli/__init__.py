"""The `logstore` command: one module a group of commands, over the coordinator's and the client's
public interfaces.
"""
