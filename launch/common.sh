# What tpu_run.sh and gpu_run.sh share.
# shellcheck shell=bash

dry=false # whether commands are printed rather than called
exec 3>&1 # where a dry run prints, also from inside $(…)

say() { echo "$(basename "$0"): $*" >&2; }

die() {
  say "$@"
  exit 2
}

# Shows the comment at the head of the script.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "launch/$(basename "$0")" >&2
  exit 2
}

# Words as any shell takes them back.
quoted() {
  local word separator="" quote="'" escaped="'\\''"
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=-]+$ ]] || word="'${word//$quote/$escaped}'"
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
}

# Calls a command, or prints it in a dry run.
call() {
  if $dry; then
    quoted "$@" >&3
    echo >&3
  else
    "$@" 3>&- # or what it leaves running would keep it open
  fi
}

# Refuses to go on without a command that will be called, and says where it comes from.
installed() {
  $dry || command -v "$1" >/dev/null || die "there is no $1 on this machine: $2"
}

# Sets the variable of a flag: --tpu-name=NAME is TPU_NAME.
set_from_flag() {
  local name="${1%%=*}"
  printf -v "$(tr a-z- A-Z_ <<<"${name#--}")" %s "${1#*=}"
}

# The command that trains with a config, sft or rl: its name begins with it.
phase_of() {
  [[ -n "$1" ]] || die "CONFIG is missing: such as configs/rl_qwen2_5_vl_7b.py"
  local name
  name="$(basename "$1" .py)"
  case "$name" in
    sft_* | rl_*) echo "${name%%_*}" ;;
    *) die "$1: its name must begin with sft_ or rl_" ;;
  esac
}
