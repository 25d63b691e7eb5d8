#!/usr/bin/env bash
# From photos with annotated questions to an evaluated model and a page, in the commands that you would use yourself.
#
#   examples/photos_to_model/run.sh [FOLDER]      runs/examples/photos_to_model unless given
#
# Killed anywhere, the same command goes on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$(dirname "$here")")
export PATH="$repository/.venv/bin:$PATH" # of `make quickstart`, if it has run
out=${1:-$repository/runs/examples/photos_to_model}
mkdir -p "$out"
cd "$out" # the configs name folders in it

# In place of your own photos and table: photos/train.jsonl, photos/held_out.jsonl.
python "$here/../photos.py" photos --train 640 --held-out 64

# In place of a downloaded checkpoint.
python "$here/../small_model.py" photos/train.jsonl initial

# Trajectories: a template says where to look, the crop operation is really run, and every one is checked.
pixel-reasoner synthesize --source table:photos/train.jsonl --count 640 --model initial \
  --image-mix single_pass=0.8,recrop_once=0.2 --out trajectories

# Both phases: with --resume a run goes on from its newest checkpoint, or begins where there is none.
pixel-reasoner sft --config "$here/sft_photos.py" --resume
pixel-reasoner rl --config "$here/rl_photos.py" --resume

# Every stage on photos that it has not seen; answers that are there are not asked for again.
for stage in sft rl; do
  pixel-reasoner evaluate --model "$stage/model" --on data:photos/held_out.jsonl --samples 2 --temperature 1 \
    --out "evaluation/$stage"
done
pixel-reasoner compare evaluation/sft evaluation/rl
pixel-reasoner view rl evaluation/sft evaluation/rl --out view
echo "open $PWD/view/index.html"
