#!/bin/sh
# Makes the Go code of the .proto files beside main.go. Needs Go and protoc:
# `pip install grpcio-tools` has the latter.
set -eu
cd "$(dirname "$0")"
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
go build -o "$plugins" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH="$plugins:$PATH" ${PROTOC:-python3 -m grpc_tools.protoc} -I ../.. --go_out=. --go-grpc_out=. \
    ../../logstore/proto/v1/common.proto ../../logstore/proto/v1/log.proto
