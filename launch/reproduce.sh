#!/usr/bin/env bash
# The paper's table in one command: downloads, phase one (warm start), phase two (RL), four benchmarks.
#
#   launch/reproduce.sh [--dry-run] [--SETTING=VALUE…] [--sft.KEY=VALUE…] [--rl.KEY=VALUE…] MACHINE [STAGE…]
#
# MACHINE
#   gpu                    this machine's, in the foreground, after launch/gpu_run.sh setup (docs/gpu.md)
#   tpu                    a Cloud TPU slice, by launch/tpu_run.sh, whose settings are exported before (docs/tpu.md); the
#                          downloads go through this machine into GS_DIR
# STAGE, all of them in this order unless some are named
#   download               the model, Pixel Reasoner's released data for both phases and its four benchmarks
#   sft                    pixel-reasoner sft, 5 epochs of about 8,000 trajectories
#   rl                     pixel-reasoner rl
#   evaluate               pixel-reasoner evaluate on V*, TallyQA, InfographicsVQA and MVBench, by the protocol "paper"
#
# What is done is skipped, and what was interrupted goes on: the same command again. What was done by which command is
# noted in DIR/runs/reproduce; another command for a stage that is done is refused.
#
# Settings, from the environment or as flags (--sft-config=… is SFT_CONFIG):
#   DIR                    where checkpoints/, data/ and runs/ are; this checkout unless given
#   SFT_CONFIG, RL_CONFIG  sft_qwen2_5_vl_7b and rl_qwen2_5_vl_7b unless given; --sft.KEY and --rl.KEY change a setting of
#                          theirs, as --config.KEY does
#   SFT_TABLE, RL_TABLE    the tables among the released data; release.json and release.parquet unless given
#   DTYPE, SLOTS           of the evaluation: bfloat16 and 16 responses in flight unless given
#   MAX_LENGTH             of its prompt and response together, 24576 tokens unless given
#
# --dry-run prints the commands, exactly as they would be called, with the chips and least times that `pixel-reasoner plan`
# gave (docs/scaling.md), and calls nothing.
set -euo pipefail

cd "$(dirname "$0")/.."

. launch/common.sh

# What `plan` gave for the configs as they are, on 16 chips of v5p: memory of a chip, and the least time of a call. It
# compiles for no GPU; docs/gpu.md has what was reckoned for those.
plan_of() {
  local update="an update of 262,144 tokens"
  case "$1" in
    sft) echo "; v5p-32 (16 chips): 19.5 of 95.7 GiB a chip, $update at least 2.72 s" ;;
    rl)
      echo "; v5p-32 (16 chips): 30.7 of 95.7 GiB a chip, $update at least 3.34 s, 32 tokens of 64 responses at least 0.22 s"
      ;;
  esac
}

machine=""
stages=()
sft_overrides=()
rl_overrides=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry=true ;;
    -h | --help) (usage) || exit 0 ;;
    --sft.*=*) sft_overrides+=("--config.${argument#--sft.}") ;;
    --rl.*=*) rl_overrides+=("--config.${argument#--rl.}") ;;
    --dir=* | --sft-config=* | --rl-config=* | --sft-table=* | --rl-table=* | --dtype=* | --slots=* | --max-length=*)
      set_from_flag "$argument"
      ;;
    --config.*) die "$argument: whose? --sft.${argument#--config.} or --rl.${argument#--config.}" ;;
    -*) die "unknown flag $argument: settings are --name=value, overrides --sft.key=value and --rl.key=value" ;;
    gpu | tpu) machine="$argument" ;;
    download | sft | rl | evaluate) stages+=("$argument") ;;
    *) die "$argument is no machine (gpu, tpu) and no stage (download, sft, rl, evaluate)" ;;
  esac
done
[[ $# -gt 0 ]] || usage
[[ -n "$machine" ]] || die "MACHINE is missing: gpu or tpu"
[[ ${#stages[@]} -gt 0 ]] || stages=(download sft rl evaluate)
for name in SLOTS MAX_LENGTH; do
  [[ "${!name:-1}" =~ ^[1-9][0-9]*$ ]] || die "$name is ${!name}: it must be a positive number"
done

local_dir="${DIR:-.}"
if [[ $machine == tpu ]]; then
  [[ "${GS_DIR:-}" == gs://[!/]* ]] || die "GS_DIR is ${GS_DIR:-not set}: it must be gs://BUCKET or a folder in it"
  [[ -z "${RUN_NAME:-}" ]] || die "RUN_NAME is $RUN_NAME: both phases would have one folder; unset it"
  dir="${GS_DIR%/}"
else
  dir="$local_dir"
fi
state="$local_dir/runs/reproduce"
model=checkpoints/Qwen2.5-VL-7B-Instruct

# The file of a config, and what its run is called.
config_of() { find_config "$1" test -f || die "there is no $1"; }
sft_config="$(config_of "${SFT_CONFIG:-sft_qwen2_5_vl_7b}")"
rl_config="$(config_of "${RL_CONFIG:-rl_qwen2_5_vl_7b}")"
[[ "$(phase_of "$sft_config") $(phase_of "$rl_config")" == "sft rl" ]] || die "SFT_CONFIG is a config of sft, RL_CONFIG of rl"
sft_run="$dir/runs/$(basename "$sft_config" .py)"
rl_run="$dir/runs/$(basename "$rl_config" .py)"
sft_settings=("--config.model.directory=$dir/$model" "--config.data.path=$dir/data/pixel_reasoner_warm_start")
sft_settings+=(${sft_overrides[@]+"${sft_overrides[@]}"})
rl_settings=("--config.model.directory=$sft_run/model" "--config.data.path=$dir/data/pixel_reasoner_rl")
rl_settings+=(${rl_overrides[@]+"${rl_overrides[@]}"})

# Does a part of a stage, unless it was done: part NAME COMMAND…
part() {
  local name="$1" mark="$state/$1" command
  shift
  command="$(quoted "$@")"
  if [[ -f "$mark" ]]; then
    [[ "$(<"$mark")" == "$command" ]] || die "$name was done by another command: $(<"$mark"). Remove $mark to do it again"
    say "$name is done"
    return
  fi
  local status=0
  call "$@" || status=$?
  if [[ $status == 75 ]]; then
    say "$name was stopped and goes on where it was: the same command again"
    exit 75
  fi
  [[ $status == 0 ]] || die "$name failed (status $status); mend that, and the same command goes on"
  $dry || { mkdir -p "$state" && echo "$command" >"$mark"; }
}

# A repository of data from Hugging Face, with its archives unpacked: released NAME REPOSITORY
released() {
  local folder="$local_dir/data/released/$1" archive archives=(images)
  part "download-$1" .venv/bin/hf download --repo-type dataset "$2" --local-dir "$folder"
  [[ $1 != sft && $1 != rl ]] || archives+=(videos)
  for archive in "${archives[@]}"; do
    part "unpack-$1-$archive" .venv/bin/python -m zipfile -e "$folder/$archive.zip" "$folder"
  done
}

# A table of the released data as a data set: imported NAME TABLE
imported() {
  local folder="$local_dir/data/released/$1" set=pixel_reasoner_warm_start
  [[ $1 == sft ]] || set=pixel_reasoner_rl
  part "import-$1" .venv/bin/pixel-reasoner import-data "$folder/$2" --media-root "$folder" --out "$local_dir/data/$set"
  to_bucket "data/$set"
}

# Copies a folder into the bucket, where a slice needs it.
to_bucket() {
  [[ $machine == tpu ]] || return 0
  part "copy-${1//\//-}" gcloud storage cp --recursive "$local_dir/$1" "$dir/$(dirname "$1")/"
}

download() {
  local pair name
  part download-model .venv/bin/hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir "$local_dir/$model"
  to_bucket "$model"
  released sft TIGER-Lab/PixelReasoner-SFT-Data
  imported sft "${SFT_TABLE:-release.json}"
  released rl TIGER-Lab/PixelReasoner-RL-Data
  imported rl "${RL_TABLE:-release.parquet}"
  for pair in vstar:VStar tallyqa:TallyQA infovqa:InfoVQA mvbench:MVBench; do
    name="${pair%:*}"
    released "$name" "JasperHaozhe/${pair#*:}-EvalData-PixelReasoner"
    to_bucket "data/released/$name"
  done
}

# Trains: train PHASE CONFIG RUN SETTING…
train() {
  if [[ $machine == tpu ]]; then
    part "$1" launch/tpu_run.sh resume "$2" "${@:4}"
  else
    part "$1" .venv/bin/pixel-reasoner "$1" --config "$2" "--config.workdir=$3" "${@:4}" --resume
  fi
}

evaluate() {
  local name command
  if [[ $machine == tpu ]]; then command=(launch/tpu_run.sh evaluate); else command=(.venv/bin/pixel-reasoner evaluate); fi
  command+=(--model "$rl_run/model" --protocol paper)
  for name in vstar tallyqa infovqa mvbench; do command+=(--on "$name:$dir/data/released/$name"); done
  command+=(--dtype "${DTYPE:-bfloat16}" --slots "${SLOTS:-16}" --max-length "${MAX_LENGTH:-24576}")
  part evaluate "${command[@]}" --out "$dir/runs/evaluation"
}

install="launch/gpu_run.sh setup"
[[ $machine == gpu ]] || install="step 2 of docs/tpu.md"
$dry || [[ -x .venv/bin/pixel-reasoner ]] || die "nothing is installed: $install"
check_config sft "$sft_config" "--config.workdir=$sft_run" "${sft_settings[@]}"
check_config rl "$rl_config" "--config.workdir=$rl_run" "${rl_settings[@]}"
for stage in "${stages[@]}"; do
  ! $dry || echo "# $stage$(plan_of "$stage")"
  case "$stage" in
    download) download ;;
    sft) train sft "$sft_config" "$sft_run" "${sft_settings[@]}" ;;
    rl) train rl "$rl_config" "$rl_run" "${rl_settings[@]}" ;;
    evaluate) evaluate ;;
  esac
done
$dry || say "done: ${stages[*]}; the figures come to $dir/runs/evaluation/results.json"
$dry || [[ $machine == gpu ]] || say "a slice costs until launch/tpu_run.sh delete"
