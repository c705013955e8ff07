#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Draws a run's loss curves with gnuplot: RUN/plots/loss.svg and loss.png from RUN/{train,val}.csv.
#   tools/plot_loss.sh RUN
set -eu
run=$1
mkdir -p "$run/plots"

# column FILE NAME: the number of a CSV column.
column() { head -n 1 "$1" | tr ',' '\n' | grep -nx "$2" | cut -d: -f1; }

t_step=$(column "$run/train.csv" step) && t_loss=$(column "$run/train.csv" train/lm_loss)
v_step=$(column "$run/val.csv" step) && v_bpb=$(column "$run/val.csv" val/bpb)
v_loss=$(column "$run/val.csv" val/loss)
for terminal in "svg size 900,540 font 'sans,14' background rgb 'white'" "pngcairo size 900,540 font 'sans,11'"; do
  case $terminal in svg*) out=$run/plots/loss.svg ;; *) out=$run/plots/loss.png ;; esac
  gnuplot << EOF
set terminal $terminal
set output '$out'
set datafile separator ','
set title '$(basename "$run")'
set xlabel 'step'
set ylabel 'loss, nats a token'
set y2label 'held out, bits a byte'
set ytics nomirror
set y2tics
set grid
set key top right
plot '$run/train.csv' using $t_step:$t_loss with lines lc rgb '#9ecae1' title 'training loss', \\
     '$run/val.csv' using $v_step:$v_loss with linespoints pt 7 ps 0.6 lc rgb '#08519c' title 'held-out loss', \\
     '$run/val.csv' using $v_step:$v_bpb axes x1y2 with linespoints pt 5 ps 0.6 lc rgb '#d94801' \\
         title 'held-out bits a byte'
EOF
done
echo "$run/plots/loss.svg $run/plots/loss.png"
