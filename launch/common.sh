# What tpu_run.sh, gpu_run.sh and reproduce.sh share.
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
  [[ -n "$1" ]] || die "CONFIG is missing: such as rl_qwen2_5_vl_7b"
  local name
  name="$(basename "$1" .py)"
  case "$name" in
    sft_* | rl_*) echo "${name%%_*}" ;;
    *) die "$1: its name must begin with sft_ or rl_" ;;
  esac
}

# The file of a config, which is given by its path or by its name below configs/, with or without .py: the first one for
# which the command succeeds. find_config CONFIG COMMAND…
find_config() {
  local file
  for file in "$1" "configs/$1" "configs/$1.py"; do
    if "${@:2}" "$file"; then
      echo "$file"
      return
    fi
  done
  return 1
}

# Refuses to go on with a setting that the command would refuse: check_config PHASE CONFIG [--config.KEY=VALUE…].
# What is installed here checks it, or else any Python that has the little that the check needs.
check_config() {
  local python
  [[ -f pixel_reasoner_jax/commands/cli.py ]] || return 0 # there is nothing to check with
  for python in .venv/bin/python "${PYTHON:-python3}"; do
    if "$python" -c "import pixel_reasoner_jax.commands.cli" 2>/dev/null; then
      "$python" -m pixel_reasoner_jax.commands.cli "$1" --config "${@:2}" --check >/dev/null || exit 2
      return
    fi
  done
  say "$2 and its overrides are not checked; with \`python3 -m pip install ml-collections 'etils[epath]'\` they would be"
}
