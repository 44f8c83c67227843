#!/bin/sh
# Regenerates p2ptrain/wire from the .proto files: sh protos/generate.sh [OUTPUT_ROOT]
set -eu
cd "$(dirname "$0")/.."
"${PYTHON:-.venv/bin/python}" -m grpc_tools.protoc --proto_path=p2ptrain/wire=protos/p2ptrain/v1 \
    --python_out="${1:-.}" --pyi_out="${1:-.}" --grpc_python_out="${1:-.}" \
    p2ptrain/wire/dadao.proto p2ptrain/wire/exchange.proto p2ptrain/wire/membership.proto p2ptrain/wire/onebyte.proto \
    p2ptrain/wire/state.proto
