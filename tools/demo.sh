#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make demo`: real text -> tokenizer -> shards -> hydra-nano -> held-out score -> loss curve -> samples. Run again, it
# goes on where it stopped; when the model is finished it only writes again. DATA=file takes another text: .txt is cut
# into documents of some kilobytes, .jsonl or .ndjson (field "text") has one a line; both may be .gz or .zst.
#   tools/demo.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
hydralm=$PWD/$build/hydralm
DATA=${DATA:-}
ending=$(printf '%s' "$DATA" | tr '[:upper:]' '[:lower:]')
say() { printf '\n== %s\n' "$*" >&2; }
refuse() { echo "demo: $*" >&2; exit 2; }

# DATA's text, whole or not at all.
unpack() {
  case $ending in
    *.gz) gzip -dc < "$DATA" ;;
    *.zst) zstd -dcq --long=31 < "$DATA" ;;
    *) cat "$DATA" ;;
  esac > "$1" || { rm -rf "$data"; refuse "$DATA: cannot be unpacked to its end"; }
}

# Refuses a text that is too short to learn from.
enough() {
  size=$(wc -c < "$1")
  [ "$size" -ge 100000 ] && return
  rm -rf "$data"
  refuse "${DATA:-the text} has $size bytes: 100,000 are needed to learn anything"
}

# A text as documents: a form feed at a blank line after 4 kB, at any line after 8 kB.
cut_text() {
  unpack "$data/whole.part"
  awk '{ if (size > 8192 || (size > 4096 && $0 == "")) { printf "\f"; size = 0 }
         size += length($0) + 1; print }' "$data/whole.part"
  rm "$data/whole.part"
}

if [ -n "$DATA" ]; then
  [ -f "$DATA" ] || refuse "DATA=$DATA: no such file"
  [ -s "$DATA" ] || refuse "DATA=$DATA: the file is empty"
  name=demo-$(basename "$DATA" | cut -d. -f1)-$(cksum < "$DATA" | cut -d' ' -f1)
else
  command -v bible > /dev/null || refuse "the program bible is missing: install bible-kjv, or give DATA=file"
  name=demo
fi
data=data/$name run=runs/$name text=data/$name/text.txt
mkdir -p "$data"

# Each step leaves its result under its own name only when it is whole.
separator=$(printf '\f')
case ${ending%.gz} in
  *.jsonl | *.jsonl.zst | *.ndjson | *.ndjson.zst | *.jsonlines | *.jsonlines.zst)
    text=$DATA separator=
    if [ ! -s "$data/tokenizer.json" ]; then
      unpack "$data/whole.part"
      enough "$data/whole.part"
      rm "$data/whole.part"
    fi
    ;;
  *)
    if [ ! -s "$text" ]; then
      say "text: ${DATA:-the King James Bible (Debian package bible-kjv-text)}"
      if [ -n "$DATA" ]; then cut_text; else tools/kjv.sh; fi > "$text.part"
      enough "$text.part"
      mv "$text.part" "$text"
      wc -c "$text" >&2
    fi
    ;;
esac
if [ ! -s "$data/tokenizer.json" ]; then
  say "tokenizer: byte-level BPE of 2048 tokens"
  "$hydralm" tokenizer train "$text" --vocab 2048 --pattern gpt2 -o "$data/tokenizer.json"
fi
if [ ! -s "$data/data.json" ]; then
  documents=$(tr -cd '\f' < "$text" | wc -c)
  if [ "$documents" -ge 100 ]; then val=0.05; else val=0.2; fi
  say "shards: a share of $val of the documents is held out"
  "$hydralm" data build "$text" --tokenizer "$data/tokenizer.json" --doc-sep "$separator" --val "$val" -o "$data"
fi

if [ ! -s "$run/model/config.json" ]; then
  say "train hydra-nano (Ctrl-C leaves a checkpoint; make demo goes on from it)"
  status=0
  trap : INT TERM  # the shell must outlive the signal that stops the training
  "$hydralm" train -C examples/nano.toml --data "$data" --run "$run" || status=$?
  trap - INT TERM
  case $status in
    0) ;;
    130 | 143)
      echo "demo: stopped with a checkpoint in $run/ckpt; go on with: make demo${DATA:+ DATA='$DATA'}" >&2
      exit "$status"
      ;;
    *) exit "$status" ;;
  esac
fi
if [ ! -s "$run/eval.txt" ]; then
  say "held-out text: every document of it, whole"
  "$hydralm" eval -m "$run/model" --data "$data" > "$run/eval.txt.part"
  mv "$run/eval.txt.part" "$run/eval.txt"
fi
cat "$run/eval.txt"
if [ ! -s "$run/plots/loss.png" ]; then
  say "curves"
  tools/plot_run.sh "$run"
fi

say "samples"
sample() {
  "$hydralm" generate -m "$run/model" -p "$1" -n 100 --seed "$2" --temp 0.7 -q
  echo
}
if [ -z "$DATA" ]; then
  sample 'In the beginning' 1
  sample 'And Jesus said unto them,' 2
  sample 'Praise ye the LORD' 3
elif [ "$text" = "$DATA" ]; then
  sample 'The' 1
  sample 'In' 2
  sample 'A' 3
else  # the first words of three of its lines
  for i in 1 2 3; do
    words=$(tr -d '\f\r' < "$text" | grep -E '([A-Za-z]+ ){4}' | sed -n "$((i * 10))p" | cut -d' ' -f1-4)
    sample "${words:-The}" "$i"
  done
fi

cat >&2 << EOF
== next
  model: $run/model   curves: $run/plots/loss.svg, loss.png   numbers: $run/train.csv, val.csv
  write more:     $build/hydralm generate -m $run/model -p "And it came to pass" -n 200
  what it is:     $build/hydralm inspect -m $run/model
  your own text:  make demo DATA=book.txt
  your own run:   $build/hydralm train -C examples/nano.toml --data $data --run runs/mine --set optim.lr=2e-3
EOF
