#!/usr/bin/env bash
# Runs a pixel-reasoner command on an existing TPU VM with one host, in the foreground:
#
#   PROJECT=my-project ZONE=us-east5-a TPU_NAME=my-tpu launch/tpu_run.sh rl --config configs/rl_qwen2_5_vl_7b.py
#
# The last commit of this checkout is copied to the VM and installed there; paths in the config are the VM's.
set -euo pipefail

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

[[ $# -gt 0 ]] || usage
for name in PROJECT ZONE TPU_NAME; do
  [[ -n "${!name:-}" ]] || { echo "tpu_run.sh: set $name" >&2; usage; }
done

on_tpu() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --worker=0 --command="$1"
}

cd "$(dirname "$0")/.."
git archive HEAD | on_tpu 'mkdir -p pixel_reasoner_jax && tar -x -C pixel_reasoner_jax'
on_tpu 'cd pixel_reasoner_jax && { test -x .venv/bin/python || python3 -m venv .venv; } &&
  .venv/bin/python -m pip install --quiet --editable ".[tpu]"' </dev/null
on_tpu "cd pixel_reasoner_jax && .venv/bin/pixel-reasoner$(printf ' %q' "$@")" </dev/null
