#!/usr/bin/env bash
# Measures on one GPU, in under ten minutes and without a network, what docs/performance.md says of GPUs.
#
#   benchmarks/gpu.sh [--wheels FOLDER] [--out FOLDER] [--tiny] [STEP…]
#
#   STEP              a step or a group of them, such as floors or updates/grpo; all unless given. What there was no time
#                     for is named at the end: give these steps, with the same --out, and the table has all of them
#   --wheels FOLDER   packages to take beside and in place of those of PYTHON, each as a wheel for its version:
#                     wheels/ beside this file if it is there
#   --out FOLDER      where results.jsonl, table.md and log.txt are written, step by step: runs/gpu unless given
#   --tiny            on a CPU, with sizes that say nothing: does it run through?
#   --list            names the steps
#
# It ends with 1 where a step failed. PYTHON is the interpreter, python3 unless given, with JAX for CUDA and the other
# packages of the extras `cuda` and `test`, as far as they are not among the wheels. Without PyTorch for CUDA, its
# figures are left out.
set -euo pipefail

if [[ " $* " == *" --help "* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
