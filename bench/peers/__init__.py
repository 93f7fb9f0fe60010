"""Drivers of the compared systems, of the machine's limits, and of this store."""

from bench.peers.base import Peer, PeerError, Result, Setting, check_same

__all__ = ["Peer", "PeerError", "Result", "Setting", "check_same"]
