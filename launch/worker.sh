#!/usr/bin/env bash
# What runs on the machine that trains; tpu_run.sh and gpu_run.sh call it, on every host.
#
#   launch/worker.sh install EXTRA    this checkout into .venv, with the extra `tpu` or `cuda`; once for each setup.py
#   launch/worker.sh start ARGUMENT…  `pixel-reasoner ARGUMENT…` in the background, unless it runs already; fails while
#                                     another command runs. Whenever the program ends with status 75, because SIGTERM
#                                     made it save and stop, it is started again with --resume
#   launch/worker.sh command          command: what runs, without --resume; nothing if nothing does
#   launch/worker.sh state            job: none, running, finished, stopped, lost (it died unseen) or failed STATUS
#   launch/worker.sh logs             what it wrote, until interrupted
#   launch/worker.sh stop             has it save and end, and ends it by force after a minute
#
# PYTHON is the interpreter that .venv is made with, python3 unless given.
set -euo pipefail

cd "$(dirname "$0")/.."
venv=.venv
run=.run # pid, command, log and exit status of the last job

say() { echo "worker.sh: $*" >&2; }

install() {
  local python="${PYTHON:-python3}"
  if [[ ! -x $venv/bin/pip ]]; then
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      "$python" -m venv $venv
    else # TPU VMs come with Python 3.10
      "$python" -m pip install --quiet --user uv
      "$python" -m uv venv --quiet --seed --python 3.11 $venv
    fi
  fi
  if ! cmp -s setup.py "$venv/installed-$1"; then
    $venv/bin/python -m pip install --quiet --editable ".[$1]"
    cp setup.py "$venv/installed-$1"
  fi
}

state() {
  if [[ -f $run/status ]]; then
    case "$(cat $run/status)" in
      0) echo "job: finished" ;;
      stopped) echo "job: stopped" ;;
      *) echo "job: failed $(cat $run/status)" ;;
    esac
  elif [[ ! -f $run/pid ]]; then
    echo "job: none"
  elif pgrep -f pixel-reasoner -g "$(cat $run/pid)" >/dev/null; then
    echo "job: running"
  elif [[ -f $run/stopping ]]; then
    echo "job: stopped"
  else
    echo "job: lost"
  fi
}

start() {
  local word words=()
  for word in "$@"; do
    [[ "$word" == --resume ]] || words+=("$word")
  done
  if [[ "$(state)" == "job: running" ]]; then
    if [[ "${words[*]}" != "$(cat $run/command)" ]]; then
      say "another run is in progress: $(cat $run/command)"
      exit 3
    fi
    say "it runs already"
    return
  fi
  mkdir -p $run
  rm -f $run/status $run/stopping
  echo "${words[*]}" >$run/command
  echo "worker.sh: $(date): pixel-reasoner $*" >>$run/log
  # A session of its own: it outlives the connection, and its process group is its pid. `stop` and a machine that goes
  # down end this shell too, which then starts nothing again.
  # shellcheck disable=SC2016
  setsid bash -c '
    "$@"
    status=$?
    while [[ $status == 75 ]]; do
      [[ " $* " == *" --resume "* ]] || set -- "$@" --resume
      echo "worker.sh: $(date): $*"
      "$@"
      status=$?
    done
    echo $status >"$0"' $run/status $venv/bin/pixel-reasoner "$@" </dev/null >>$run/log 2>&1 &
  echo $! >$run/pid
  for _ in $(seq 50); do # until it can be seen: a moment before that it would pass for lost
    [[ "$(state)" == "job: lost" ]] || return 0
    sleep 0.1
  done
}

stop() {
  [[ "$(state)" == "job: running" ]] || return 0
  local group
  group="$(cat $run/pid)"
  touch $run/stopping # before that, who watches would take it for lost in the moment until its status is written
  kill -TERM -- "-$group"
  for _ in $(seq 60); do
    kill -0 -- "-$group" 2>/dev/null || break
    sleep 1
  done
  kill -KILL -- "-$group" 2>/dev/null || true
  echo stopped >$run/status
}

case "${1:-}" in
  install) install "${2:?EXTRA is missing: tpu or cuda}" ;;
  start) start "${@:2}" ;;
  state) state ;;
  command) [[ "$(state)" != "job: running" ]] || echo "command: $(cat $run/command)" ;;
  logs)
    [[ -f $run/log ]] || { say "nothing has run here yet"; exit 2; }
    exec tail -n 100 -F $run/log
    ;;
  stop) stop ;;
  *)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
