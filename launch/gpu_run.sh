#!/usr/bin/env bash
# Runs a pixel-reasoner command on this machine's NVIDIA GPUs, all of them in one process:
#
#   launch/gpu_run.sh rl --config configs/rl_qwen2_5_vl_7b.py
#
# It installs this checkout with CUDA into .venv (PYTHON and VENV choose others) when setup.py has changed.
set -euo pipefail

if [[ $# -eq 0 ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

root="$(cd "$(dirname "$0")/.." && pwd)"
venv="${VENV:-$root/.venv}"
[[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
if [[ ! "$venv/installed-cuda" -nt "$root/setup.py" ]]; then
  "$venv/bin/python" -m pip install --quiet --editable "$root[cuda]"
  touch "$venv/installed-cuda"
fi
exec "$venv/bin/pixel-reasoner" "$@"
