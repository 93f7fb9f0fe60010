"""The way of an append through a copy: gate, primary's queue, stored batch, ack.

`append_gate` takes appends in, `forward` sends them to the primary, `writer` queues and groups
them, `stamps` compares their timestamps, `sealed` answers for a sealed shard. Imports intake and
resources.
"""
