"""Drivers of the systems we compare ourselves with, of the machine's limits, and of our own."""

from bench.peers.base import Peer, PeerError, Result, Setting, check_same

__all__ = ["Peer", "PeerError", "Result", "Setting", "check_same"]
