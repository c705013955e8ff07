#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Draws a run with gnuplot from RUN/{train,val}.csv: its losses (RUN/plots/loss.svg, .png), and for Hydra models the
# health of each part (RUN/plots/health.svg, .png). Dashed lines are borders of stages.
#   tools/plot_run.sh RUN
set -eu
run=$1
mkdir -p "$run/plots"

# A series as a gnuplot expression: the column NAME, or the mean of the columns NAME/LAYER. Nothing where there is none.
series() {
  head -n 1 "$run/$1.csv" | awk -F, -v name="$2" '{
    for (i = 1; i <= NF; ++i)
      if ($i == name || ($i ~ "^" name "/[0-9]+$")) { sum = sum (n++ ? " + " : "") "$" i }
    if (n) printf "((%s) / %d)", sum, n
  }'
}

# One curve of a plot, where its series is there: curve train|val NAME TITLE [COLOUR [AXES]].
curve() {
  y=$(series "$1" "$2")
  [ -z "$y" ] || printf "'%s' using %s:%s %s with lines lw 1.5 %s title '%s', " \
    "$run/$1.csv" "$(series "$1" step)" "$y" "${5:-}" "${4:+lc rgb '$4'}" "$3"
}

# A panel of all curves of its body, or an empty place.
panel() {
  curves=$(cat)
  echo "set title '$1'; set ylabel '$2'"
  if [ -n "$curves" ]; then echo "plot ${curves%, }"; else echo "set multiplot next"; fi
}

stage_borders() {
  stage=$(head -n 1 "$run/train.csv" | tr ',' '\n' | grep -nx train/stage | cut -d: -f1) || return 0
  step=$(head -n 1 "$run/train.csv" | tr ',' '\n' | grep -nx step | cut -d: -f1)
  awk -F, -v stage="$stage" -v step="$step" 'NR > 2 && $stage != last {
    printf "set arrow from %d, graph 0 to %d, graph 1 nohead dt 2 lc rgb \"#999999\"\n", before, before }
    { last = $stage; before = $step }' "$run/train.csv"
}

common="set datafile separator ','; set grid; set xlabel 'step'"

losses() {
  echo "set title '$(basename "$run")'; set ylabel 'loss, nats a token'; set y2label 'held out, bits a byte'"
  echo "set ytics nomirror; set y2tics; set key top right"
  curves=$(curve train train/lm_loss 'training loss' '#9ecae1'
    curve val val/loss 'held-out loss' '#08519c'
    curve val val/bpb 'held-out bits a byte' '#d94801' 'axes x1y2')
  echo "plot ${curves%, }"
}

health() {
  echo "set multiplot layout 3, 2 title '$(basename "$run"): health of each part, by step'"
  echo "set key below; unset xlabel; set xrange [0:*]"
  # Nearly in a line up to 0.005, what a part that matters costs at least, and by powers of ten beyond.
  echo "set nonlinear y via asinh(y / 0.005) inverse 0.005 * sinh(y)"
  echo "set ytics ('-0.1' -0.1, '-0.01' -0.01, '0' 0, '0.005' 0.005, '0.02' 0.02, '0.1' 0.1, '0.5' 0.5, '2' 2)"
  { for part in ssm moe sga landmarks workspace pkm; do curve val "off/$part" "$part"; done; } |
    panel 'what switching a part off costs' 'bits a byte'
  echo "unset nonlinear y; set ytics auto"
  { curve val gate/ssm SSM && curve val gate/attn attention && curve val gate/ffn experts; } |
    panel 'factor of each path, mean of layers' ''
  { curve train moe/load_cv 'spread of loads' && curve train moe/load_min 'least load' &&
    curve train moe/dead_experts 'dead experts'; } | panel 'experts' ''
  echo "set logscale y"
  { curve val ssm/half_life_p10 'tenth from below' && curve val ssm/half_life median &&
    curve val ssm/half_life_p90 'tenth from above' && curve val landmark/age 'age of landmarks'; } |
    panel 'half-lives of the SSM, age of landmarks' 'tokens'
  echo "unset logscale y"
  { curve val workspace/slot_use 'slots written' && curve val workspace/read_gate 'read gate' &&
    curve val workspace/write_gate 'write gate'; } | panel 'workspace' ''
  { curve train pkm/rows_hit 'rows that moved' && curve val pkm/rows_hit 'rows of a batch' &&
    curve val pkm/gate 'read gate' && curve val landmark/use 'pool in use'; } | panel 'product keys, landmarks' ''
  echo "unset multiplot"
}

# draw NAME WIDTH HEIGHT: the body as NAME.svg and NAME.png.
draw() {
  body=$(cat)
  for terminal in "svg size $2,$3 font 'sans,14' background rgb 'white'" "pngcairo size $2,$3 font 'sans,11'"; do
    case $terminal in svg*) out=$run/plots/$1.svg ;; *) out=$run/plots/$1.png ;; esac
    printf "set terminal %s\nset output '%s'\n%s\n%s\n%s\n" "$terminal" "$out" "$common" "$(stage_borders)" "$body" |
      gnuplot
    echo "$out"
  done
}

losses | draw loss 900 540
[ -z "$(series val off/ssm)" ] || health | draw health 1300 1200
