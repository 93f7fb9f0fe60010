"""The .proto files, the code generated from them, channels, and errors as gRPC status.

Imports base only.
"""
