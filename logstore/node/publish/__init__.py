"""The way of committed batches to a broker: to a move's topic, and to the log's own readers.

`publishing` decides which runs, `publisher` feeds a move, `changefeed` the log's topic. Imports
resources.
"""
