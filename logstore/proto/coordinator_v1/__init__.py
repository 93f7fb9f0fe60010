"""Generated from the .proto files by `python -m logstore.proto.generate`."""
