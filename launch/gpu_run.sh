#!/usr/bin/env bash
# Trains on NVIDIA GPUs, all of a machine's in one process: on this machine, or on machines of Slurm with --slurm.
#
#   launch/gpu_run.sh [--slurm] [--dry-run] [--SETTING=VALUE…] COMMAND
#
#   setup                                  installs this checkout with CUDA into .venv
#   run CONFIG [--config.KEY=VALUE…]       starts sft or rl, as the config's name begins, and returns; CONFIG is a file
#                                          or the name of one in configs/, such as rl_qwen2_5_vl_7b
#   resume CONFIG [--config.KEY=VALUE…]    the same from the newest whole checkpoint
#   logs | status | stop                   of the run
#
# A Slurm job that was preempted, that SIGTERM made save and end, or whose node failed is queued again and resumes by
# itself; .venv and the working directory must then lie where every node sees them. Settings of Slurm, from the
# environment or as flags (--job-name=… is JOB_NAME):
#   JOB_NAME, NODES, GPUS, CPUS            pixel-reasoner, 1 machine, of which 8 and 64 unless given
#   PARTITION, ACCOUNT, TIME               the cluster's own unless given
#
# --dry-run prints the commands, exactly as they would be called, and calls nothing.
set -euo pipefail

cd "$(dirname "$0")/.."

. launch/common.sh

slurm=false
settings=()
positional=()
overrides=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry=true ;;
    -h | --help) (usage) || exit 0 ;;
    --slurm) slurm=true ;;
    --config.*=*) overrides+=("$argument") ;;
    --job-name=* | --nodes=* | --gpus=* | --cpus=* | --partition=* | --account=* | --time=*)
      set_from_flag "$argument"
      settings+=("${argument%%=*}")
      ;;
    --resume) die "resume is a command: launch/gpu_run.sh resume CONFIG" ;;
    -*) die "unknown flag $argument: settings are --name=value, overrides --config.key=value" ;;
    *) positional+=("$argument") ;;
  esac
done
JOB_NAME="${JOB_NAME:-pixel-reasoner}"
if $slurm; then
  for name in NODES GPUS CPUS; do
    [[ "${!name:-1}" =~ ^[1-9][0-9]*$ ]] || die "$name is ${!name}: it must be a positive number"
  done
  [[ "$JOB_NAME" =~ ^[A-Za-z0-9._-]+$ ]] || die "JOB_NAME is $JOB_NAME: it must be of letters, digits, dots, _ and -"
elif [[ ${#settings[@]} -gt 0 ]]; then
  die "${settings[0]} is a setting of Slurm: give --slurm too"
fi
log="runs/$JOB_NAME.log"

queued() { call squeue --me --name="$JOB_NAME" --noheader --format="%i %T %M %N %k"; } # %k: see submit

# Queues the run; what Slurm queues again resumes. The job's comment is the command, by which a run is known.
submit() {
  local jobs comment
  jobs="$(queued)"
  comment="$(quoted "$@")"
  comment="${comment% --resume}"
  if [[ "$jobs" == *" $comment" ]]; then
    say "$JOB_NAME is queued already: $jobs"
    return
  fi
  [[ -z "$jobs" ]] || die "another run is queued as $JOB_NAME: $jobs; --job-name=NAME gives this one a name of its own"
  local nodes="${NODES:-1}" gpus="${GPUS:-8}" environment=""
  if [[ $nodes != 1 ]]; then
    # Left to itself, JAX takes one GPU for each of several processes.
    environment="JAX_LOCAL_DEVICE_IDS=$(seq --separator=, 0 $((gpus - 1))) "
    set -- "$1" --distributed "${@:2}"
  fi
  local options=(--job-name="$JOB_NAME" --nodes="$nodes" --ntasks-per-node=1 --gpus-per-node="$gpus"
    --cpus-per-task="${CPUS:-64}" --requeue --open-mode=append --output="$log" --comment="$comment")
  [[ -z "${PARTITION:-}" ]] || options+=(--partition="$PARTITION")
  [[ -z "${ACCOUNT:-}" ]] || options+=(--account="$ACCOUNT")
  [[ -z "${TIME:-}" ]] || options+=(--time="$TIME")
  call mkdir -p runs
  # Status 75: SIGTERM made it save and end. Where Slurm itself ends the job, the shell is gone by then.
  local again="status=\$?; [ \$status -ne 75 ] || scontrol requeue \$SLURM_JOB_ID; exit \$status" train
  train=".venv/bin/pixel-reasoner $(quoted "$@") \${SLURM_RESTART_COUNT:+--resume}"
  call sbatch "${options[@]}" --wrap="${environment}srun --cpus-per-task=${CPUS:-64} $train || { $again; }"
}

# Starts the run with the arguments that a config and overrides make, and those given.
start() {
  local config="${positional[1]:-}" phase
  [[ ${#positional[@]} -le 2 ]] || die "there is more than a config: ${positional[*]:2}"
  phase="$(phase_of "$config")"
  config="$(find_config "$config" test -f)" || die "there is no ${positional[1]}"
  $dry || [[ -x .venv/bin/pixel-reasoner ]] || die "nothing is installed: launch/gpu_run.sh setup"
  check_config "$phase" "$config" ${overrides[@]+"${overrides[@]}"}
  set -- "$phase" --config "$config" ${overrides[@]+"${overrides[@]}"} "$@"
  if $slurm; then
    submit "$@"
  else
    call launch/worker.sh start "$@"
    say "in the background: launch/gpu_run.sh logs shows what it writes, launch/gpu_run.sh status whether it goes on"
  fi
}

[[ ${#positional[@]} -gt 0 ]] || usage
! $slurm || [[ "${positional[0]}" == setup ]] || installed squeue "--slurm is for the login node of a cluster"
case "${positional[0]}" in
  setup) call launch/worker.sh install cuda ;;
  run) start ;;
  resume) start --resume ;;
  logs)
    $dry || ! $slurm || [[ -f "$log" ]] || die "there is no $log yet: has the job begun? launch/gpu_run.sh --slurm status"
    if $slurm; then call tail -n 100 -F "$log"; else call launch/worker.sh logs; fi
    ;;
  status)
    if $slurm; then
      jobs="$(queued)"
      $dry || echo "${jobs:-no job is queued or running as $JOB_NAME}"
    else
      call launch/worker.sh state
    fi
    ;;
  stop) if $slurm; then call scancel --me --name="$JOB_NAME"; else call launch/worker.sh stop; fi ;;
  *) die "there is no command ${positional[0]}; launch/gpu_run.sh --help names them" ;;
esac
