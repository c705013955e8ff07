#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The files of SmolLM2-135M that all programs run: Q4_1 as published, Q4_0, Q8_0, F16 and BF16 made of it by
# llama.cpp's own quantiser and written in pieces of 2 MB, so that they lie in huge pages in the system's cache whoever
# maps them. Prints the folder of those. A second run makes nothing. Not here: fetching the published file
# (tools/smollm2.sh), the quantiser (ggml.sh).
set -eu
cd "$(dirname "$0")/../.."
folder=$PWD/.cache/peers
bin=$(bench/peers/ggml.sh llama_cpp)
published=$(tools/smollm2.sh)
case $published in /*) ;; *) published=$PWD/$published ;; esac
ln -sf "$published" "$folder/SmolLM2-135M-Instruct.Q4_1.gguf"
for type in Q4_0 Q8_0 F16 BF16; do
  made=$folder/SmolLM2-135M-Instruct.$type.gguf
  [ -s "$made" ] && continue
  "$bin/llama-quantize" --allow-requantize --pure "$published" "$made.part" $type > "$folder/log" 2>&1 || {
    echo "models: llama-quantize $type: $(tail -n 1 "$folder/log")" >&2
    exit 2
  }
  dd if="$made.part" of="$made.whole" bs=2M status=none
  rm "$made.part"
  mv "$made.whole" "$made"
done
echo "$folder"
