#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make chat`: talks to SmolLM2-135M-Instruct, fetched once (tools/smollm2.sh), or to the model of MODEL=path.
#   tools/chat.sh BUILD [flags of hydralm chat]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
[ $# -eq 0 ] || shift
[ -x "$build/hydralm" ] || { echo "chat: $build/hydralm is missing: run make" >&2; exit 2; }
model=${MODEL:-}
[ -n "$model" ] || model=$(tools/smollm2.sh)
exec "$build/hydralm" chat -m "$model" "$@"
