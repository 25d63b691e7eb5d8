#!/usr/bin/env bash
# Trains on a Cloud TPU slice: asks for it, installs this checkout's last commit on every host, starts the same command
# on all of them, and brings the run back when the slice is preempted.
#
#   launch/tpu_run.sh [--SETTING=VALUE…] [--dry-run] COMMAND
#
#   create                                 asks for the slice as a queued resource and waits until it is ready
#   setup                                  copies the last commit to all hosts and installs it there
#   run CONFIG [--config.KEY=VALUE…]       starts sft or rl, as the config's name begins, and watches until it ends;
#                                          a preempted slice is created and set up again, and the run resumed; CONFIG
#                                          is a file or the name of one in configs/, such as rl_qwen2_5_vl_7b
#   resume CONFIG [--config.KEY=VALUE…]    the same from the newest whole checkpoint, whatever state the slice is in
#   evaluate ARGUMENT…                     the same with `pixel-reasoner evaluate ARGUMENT…`, which goes on by itself; all
#                                          that follows is its own, and paths are gs:// or on every host
#   logs | status | stop | delete          of host WORKER | of slice and run | the run | the slice
#
# Settings, from the environment or as flags (--tpu-name=… is TPU_NAME):
#   PROJECT, ZONE, TPU_NAME                for every command
#   ACCELERATOR_TYPE, TIER                 to create, and to run, which may have to: such as v5p-32; TIER is spot,
#                                          reserved or on-demand (--spot, --reserved and --on-demand for short)
#   GS_DIR                                 to run and to evaluate: gs://BUCKET/FOLDER for working directories and the compilation cache
#   RUNTIME_VERSION                        the TPU VM's image; suits the accelerator unless given
#   RUN_NAME                               folder of the run in GS_DIR/runs; the config's name unless given
#   WORKER, POLL_SECONDS, MAX_RESTARTS     0, 30 and 100 unless given
#
# --dry-run prints the commands of a course without trouble, exactly as they would be called, and calls nothing.
set -euo pipefail

cd "$(dirname "$0")/.."
folder=pixel_reasoner_jax # of the checkout, in the home directory of every host
worker=$folder/launch/worker.sh

. launch/common.sh

# ---- Settings ----

tier="${TIER:-}"
positional=()
overrides=()
for argument in "$@"; do
  if [[ "${positional[0]:-}" == evaluate ]]; then
    positional+=("$argument")
    continue
  fi
  case "$argument" in
    --dry-run) dry=true ;;
    -h | --help) (usage) || exit 0 ;;
    --spot | --reserved | --on-demand) tier="${argument#--}" ;;
    --tier=*) tier="${argument#*=}" ;;
    --config.*=*) overrides+=("$argument") ;;
    --project=* | --zone=* | --tpu-name=* | --accelerator-type=* | --gs-dir=* | --runtime-version=* | --run-name=* | \
      --worker=* | --poll-seconds=* | --max-restarts=*)
      set_from_flag "$argument"
      ;;
    -*) die "unknown flag $argument: settings are --name=value, overrides --config.key=value" ;;
    *) positional+=("$argument") ;;
  esac
done
POLL_SECONDS="${POLL_SECONDS:-30}"
for name in POLL_SECONDS MAX_RESTARTS; do
  [[ "${!name:-0}" =~ ^[0-9]+$ ]] || die "$name is ${!name}: it must be a number"
done
[[ "${WORKER:-0}" =~ ^([0-9]+|all)$ ]] || die "WORKER is $WORKER: it must be the number of a host, or all"
[[ "${RUN_NAME:-x}" =~ ^[A-Za-z0-9._-]+$ ]] || die "RUN_NAME is $RUN_NAME: it must be of letters, digits, dots, _ and -"

# Names all that are missing at once.
need() {
  local name missing=() flags=()
  for name in "$@"; do
    [[ -n "${!name:-}" ]] && continue
    missing+=("$name")
    flags+=("--$(tr A-Z_ a-z- <<<"$name")=VALUE")
  done
  [[ ${#missing[@]} == 0 ]] || die "not set: ${missing[*]}; export them, or give ${flags[*]}"
}

need_for_create() {
  need ACCELERATOR_TYPE
  case "$tier" in
    spot | reserved) request=("--$tier") ;;
    on-demand) request=() ;;
    "") die "not set: TIER; export it, or give --spot, --reserved or --on-demand" ;;
    *) die "TIER is $tier: it must be spot, reserved or on-demand" ;;
  esac
  [[ -z "${RUNTIME_VERSION:-}" ]] || return 0
  case "$ACCELERATOR_TYPE" in
    v6e-*) RUNTIME_VERSION=v2-alpha-tpuv6e ;;
    v5p-*) RUNTIME_VERSION=v2-alpha-tpuv5 ;;
    v5litepod-*) RUNTIME_VERSION=v2-alpha-tpuv5-lite ;;
    v5e-*) die "ACCELERATOR_TYPE is $ACCELERATOR_TYPE: Google Cloud calls it v5litepod-${ACCELERATOR_TYPE#v5e-}" ;;
    v[234]-*) RUNTIME_VERSION=tpu-ubuntu2204-base ;;
    *) die "no image is known for $ACCELERATOR_TYPE: mend ACCELERATOR_TYPE (such as v5p-32), or set RUNTIME_VERSION" ;;
  esac
}

is_committed() { git cat-file -e "HEAD:$1" 2>/dev/null; }

need_for_run() {
  need_for_create
  need GS_DIR
  [[ "$GS_DIR" == gs://[!/]* ]] || die "GS_DIR is $GS_DIR: it must be gs://BUCKET or a folder in it"
  local config="${positional[1]:-}" phase
  phase="$(phase_of "$config")"
  config="$(find_config "$config" is_committed)" ||
    die "${positional[1]} is not in the last commit, which is what the hosts get"
  [[ ${#positional[@]} == 2 ]] || die "there is more than a config: ${positional[*]:2}"
  [[ " ${overrides[*]-}" != *" --config.workdir="* ]] || die "the working directory is GS_DIR/runs/RUN_NAME: set these"
  git diff --quiet HEAD -- "$config" || say "the hosts get the last commit, without the changes to $config since"
  workdir="${GS_DIR%/}/runs/${RUN_NAME:-$(basename "$config" .py)}"
  check_config "$phase" "$config" "--config.workdir=$workdir" ${overrides[@]+"${overrides[@]}"}
  training=("$phase" --distributed --config "$config" "--config.workdir=$workdir" ${overrides[@]+"${overrides[@]}"})
  again=(--resume)
}

need_for_evaluate() {
  need_for_create
  need GS_DIR
  [[ "$GS_DIR" == gs://[!/]* ]] || die "GS_DIR is $GS_DIR: it must be gs://BUCKET or a folder in it"
  [[ ${#positional[@]} -gt 1 ]] || die "ARGUMENT is missing: what pixel-reasoner evaluate takes, --model and --on first"
  workdir="what --out names"
  training=(evaluate --distributed "${positional[@]:1}")
  again=()
}

# ---- Calls ----

tpus() { call gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }
on_hosts() { tpus tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2" </dev/null; }

# Again after a failure, four times: new hosts refuse connections for a while, and networks have their moments.
patiently() {
  local attempt
  for attempt in 1 2 3 4; do
    "$@" && return
    say "attempt $attempt failed: $*"
    sleep "$POLL_SECONDS"
  done
  "$@"
}

# The slice's state: NONE, that of the request until it is ACTIVE, then the node's (READY, PREEMPTED, …).
expected=READY # what a dry run supposes it to be
slice_state() {
  local state
  state="$(tpus queued-resources list --filter="name~/$TPU_NAME\$" --format="value(state.state)")" || return
  $dry && [[ "$expected" == READY ]] && state=ACTIVE
  if [[ "$state" == ACTIVE ]]; then
    state="$(tpus tpu-vm describe "$TPU_NAME" --format="value(state)")" || state=UNKNOWN
    $dry && state=READY
  fi
  echo "${state:-NONE}"
}

# What a host says to a command of worker.sh, or $2 where nothing is installed.
ask() { echo "if test -x $worker; then $worker $1; else $2; fi"; }

# The run's state on all hosts together, in a dry run the one given; fails when no host says anything.
# A host that lost the run tells more than those where it failed because of that.
run_state() {
  local jobs state
  jobs="$(on_hosts all "$(ask state "echo job: none")")" || true
  $dry && jobs="job: $1"
  for state in lost failed stopped running finished none; do
    if grep -q "^job: $state" <<<"$jobs"; then
      echo "$state"
      return
    fi
  done
  return 1
}

# Refuses to go on while any host runs something else, and, where `set-up` is asked for, where nothing is installed.
check_hosts() {
  local said line
  said="$(patiently on_hosts all "$(ask command "echo not set up")")"
  while IFS= read -r line; do
    case "$line" in
      "not set up") [[ "${1:-}" != set-up ]] || die "$TPU_NAME is not set up: launch/tpu_run.sh setup" ;;
      "command: ${training[*]}") ;;
      "command: "*) die "another run is in progress on $TPU_NAME: ${line#command: }; stop it first" ;;
    esac
  done <<<"$said"
}

# ---- Commands ----

# The first look is `patiently` or not: while nothing has begun yet, a missing login should not be waited for.
create() {
  local asked=false state
  while true; do
    state="$("$@" slice_state)" || die "gcloud cannot list the queued resources of $PROJECT in $ZONE; see above"
    set -- patiently
    case "$state" in
      READY) return ;;
      NONE)
        tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
          --runtime-version="$RUNTIME_VERSION" ${request[@]+"${request[@]}"}
        asked=true
        expected=READY
        ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED)
        if [[ "$state" == FAILED ]] && $asked; then
          die "the request failed; why: gcloud compute tpus queued-resources describe $TPU_NAME"
        fi
        delete
        ;;
      *)
        say "$TPU_NAME is $state"
        sleep "$POLL_SECONDS"
        ;;
    esac
  done
}

delete() {
  local state
  state="$(slice_state)"
  if [[ "$state" == NONE ]]; then
    say "there is no $TPU_NAME"
  else
    tpus queued-resources delete "$TPU_NAME" --force --quiet
  fi
}

# The slice must be there, as far as one look can tell: neither a missing login nor a missing slice is worth retrying.
ready() {
  local state
  state="$(slice_state)" || die "gcloud cannot list the queued resources of $PROJECT in $ZONE; see above"
  [[ "$state" != UNKNOWN ]] || die "gcloud cannot describe $TPU_NAME; see above"
  [[ "$state" == READY ]] || die "$TPU_NAME is $state: $1"
}

setup() {
  local archive="${TMPDIR:-/tmp}/$folder.tar.gz" state
  state="$(patiently run_state none)"
  [[ "$state" != running ]] || die "a run is in progress on $TPU_NAME: stop it first"
  [[ -z "$(git status --porcelain)" ]] || say "what is not committed is not copied"
  call git archive --format=tar.gz --output="$archive" HEAD
  patiently tpus tpu-vm scp "$archive" "$TPU_NAME:" --worker=all
  # The pattern leaves .venv and .run alone.
  patiently on_hosts all \
    "mkdir -p $folder && cd $folder && rm -rf -- * && tar -xzf ../$folder.tar.gz && launch/worker.sh install tpu"
}

start() {
  local cache
  cache="$(quoted "${GS_DIR%/}/jax_cache")"
  patiently on_hosts all "JAX_COMPILATION_CACHE_DIR=$cache $worker start $(quoted "${training[@]}" "$@")"
}

stop() { on_hosts all "$(ask stop true)"; }

resume_once() {
  local state
  create patiently
  state="$(patiently run_state none)"
  check_hosts
  case "$state" in
    running) return ;;
    lost | failed | stopped) patiently stop ;; # it may go on on other hosts
  esac
  setup
  start ${again[@]+"${again[@]}"}
}

# Waits for the end of the run; fails when the slice or one of its hosts is lost, and exits when the run itself failed.
watch() {
  local state
  while true; do
    state="$(slice_state || echo UNKNOWN)"
    [[ "$state" == READY || "$state" == UNKNOWN ]] || return 1
    state="$(run_state finished || echo unknown)"
    case "$state" in
      finished) return 0 ;;
      lost | none) return 1 ;;
      stopped) die "the run was stopped" ;;
      failed)
        sleep "$POLL_SECONDS" # hosts of a preempted slice may fail a moment before it is known
        [[ "$(patiently slice_state)" == READY ]] || return 1
        stop
        on_hosts all "tail -n 40 $folder/.run/log"
        die "the run failed; its last lines stand above"
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

keep_running() {
  local restarts=0
  until watch; do
    restarts=$((restarts + 1))
    [[ $restarts -le ${MAX_RESTARTS:-100} ]] || die "interrupted more than ${MAX_RESTARTS:-100} times"
    say "interrupted; restart $restarts"
    resume_once
  done
  say "finished: $workdir"
}

[[ ${#positional[@]} -gt 0 ]] || usage
need PROJECT ZONE TPU_NAME
installed gcloud "https://cloud.google.com/sdk/docs/install"
case "${positional[0]}" in
  create)
    need_for_create
    expected=NONE
    create
    say "$TPU_NAME is ready"
    ;;
  setup)
    ready "create it first"
    setup
    ;;
  run)
    need_for_run
    ready "create it and set it up, or resume, which does both"
    check_hosts set-up
    start
    keep_running
    ;;
  resume)
    need_for_run
    resume_once
    keep_running
    ;;
  evaluate)
    need_for_evaluate
    resume_once
    keep_running
    ;;
  logs) on_hosts "${WORKER:-0}" "$(ask logs "echo nothing is installed here: launch/tpu_run.sh setup")" ;;
  status)
    state="$(slice_state)"
    $dry || echo "slice: $state"
    [[ "$state" != READY ]] || on_hosts all "$(ask state "echo job: none")"
    ;;
  stop) stop ;;
  delete) delete ;;
  *) die "there is no command ${positional[0]}; launch/tpu_run.sh --help names them" ;;
esac
