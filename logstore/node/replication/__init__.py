"""The way of stored batches between instances: pushes of a primary, pulls of a learner.

Sent by `peer_senders`, one `peer_sender` a peer, in `messages`; taken in by `pushes` through the
`receiver`; pulled by `catch_up`; `marks` keeps the high watermark on the disk. Imports integrity
and resources.
"""
