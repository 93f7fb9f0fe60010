"""The way of a read: committed batches of a copy, as answers to readers.

`reads` finds them by offset, key, key range and time, `answers` makes the messages. Imports
resources.
"""
