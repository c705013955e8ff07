#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make demo`: real text -> tokenizer -> shards -> hydra-nano -> held-out score -> loss curve -> samples. Run again, it
# goes on where it stopped; when the model is finished it only writes again. DATA=file takes another text.
#   tools/demo.sh BUILD
set -eu
cd "$(dirname "$0")/.."
hydralm=$PWD/${1:-build/release}/hydralm
say() { printf '\n== %s\n' "$*" >&2; }

# All of King James's Bible, a document a chapter (form feeds between), verse numbers stripped, a verse a line.
bible_text() {
  bible -f 'Gen1:1-Rev22:21' | awk '{ split($1, at, ":"); if (NR > 1 && at[1] != chapter) printf "\f"
                                      chapter = at[1]; sub(/^[^ ]* /, ""); print }'
}

if [ -n "${DATA:-}" ]; then
  [ -s "$DATA" ] || { echo "demo: DATA=$DATA: no such file, or it is empty" >&2; exit 2; }
  name=$(basename "$DATA"); name=demo-${name%%.*}
  text=$DATA
else
  command -v bible > /dev/null || { echo "demo: the program bible is missing: install bible-kjv, or DATA=file" >&2; exit 2; }
  name=demo
  text=data/demo/kjv.txt
fi
data=data/$name run=runs/$name
mkdir -p "$data"

# Each step leaves its result under its own name only when it is whole.
if [ -z "${DATA:-}" ] && [ ! -s "$text" ]; then
  say "text: the King James Bible (Debian package bible-kjv-text)"
  bible_text > "$text.part" && mv "$text.part" "$text"
  wc -c "$text" >&2
fi
if [ ! -s "$data/tokenizer.json" ]; then
  say "tokenizer: byte-level BPE of 2048 tokens"
  "$hydralm" tokenizer train "$text" --vocab 2048 --pattern gpt2 -o "$data/tokenizer.json"
fi
if [ ! -s "$data/data.json" ]; then
  say "shards: one document in twenty is held out"
  "$hydralm" data build "$text" --tokenizer "$data/tokenizer.json" --doc-sep "$(printf '\f')" --val 0.05 -o "$data"
fi

if [ ! -s "$run/model/config.json" ]; then
  say "train hydra-nano (Ctrl-C leaves a checkpoint; make demo goes on from it)"
  status=0
  "$hydralm" train -C examples/nano.toml --data "$data" --run "$run" || status=$?
  case $status in
    0) ;;
    130 | 143) echo "demo: stopped with a checkpoint in $run/ckpt; go on with: make demo${DATA:+ DATA=$DATA}" >&2; exit "$status" ;;
    *) exit "$status" ;;
  esac
fi
if [ ! -s "$run/eval.json" ]; then
  say "held-out text: every document of it"
  "$hydralm" eval -m "$run/model" --data "$data" --json > "$run/eval.json.part" && mv "$run/eval.json.part" "$run/eval.json"
  "$hydralm" eval -m "$run/model" --data "$data"
  say "loss curve"
  tools/plot_loss.sh "$run"
fi

# Prompts: words of the Bible, or the first words of three documents of the user's text.
say "samples"
sample() {
  "$hydralm" generate -m "$run/model" -p "$1" -n 100 --seed "$2" --temp 0.7
  echo
}
if [ -z "${DATA:-}" ]; then
  sample 'In the beginning' 1
  sample 'And Jesus said unto them,' 2
  sample 'Praise ye the LORD' 3
else
  i=0
  for at in 1 2 3; do
    i=$((i + 1))
    case $DATA in *.gz) reader=zcat ;; *.zst) reader=zstdcat ;; *) reader=cat ;; esac
    start=$($reader "$DATA" | tr -d '\000-\011\013-\037' | grep -E '[A-Za-z]{3}' | sed -n "$((at * 7))p" | cut -c1-24)
    sample "${start:-The }" $i
  done
fi

cat >&2 << EOF
== next
  build: $(dirname "$hydralm")   model: $run/model   curves: $run/plots/loss.svg, loss.png   log: $run/train.csv
  write more:     $(dirname "$hydralm")/hydralm generate -m $run/model -p "And it came to pass" -n 200
  what it is:     $(dirname "$hydralm")/hydralm inspect -m $run/model
  your own text:  make demo DATA=book.txt
  your own run:   $(dirname "$hydralm")/hydralm train -C examples/nano.toml --data $data --run runs/mine --set optim.lr=2e-3
EOF
