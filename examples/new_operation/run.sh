#!/usr/bin/env bash
# An operation of one's own, from the model's side and through the command line.
#
#   examples/new_operation/run.sh [FOLDER]      runs/examples/new_operation unless given
#
# Killed anywhere, the same command goes on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$(dirname "$here")")
export PATH="$repository/.venv/bin:$PATH" # of `make quickstart`, if it has run
# Where `enhance:EnhanceRegion` is found, and what this example shares with others.
export PYTHONPATH="$here:$here/..${PYTHONPATH:+:$PYTHONPATH}"
out=${1:-$repository/runs/examples/new_operation}
mkdir -p "$out"
cd "$out"

python "$here/../photos.py" photos --train 256 --held-out 32 --night

# What a model is returned and told, without a model.
python "$here/by_hand.py" photos/held_out/0000.jpg

# Trajectories that call it, and a tiny model that knows their words.
python "$here/teach.py" photos/train.jsonl trajectories initial

# Training names the operation in its config, and it is saved with the model.
pixel-reasoner sft --config "$here/../photos_to_model/sft_photos.py" --resume \
  --config.operations.names=enhance:EnhanceRegion --config.train.epochs=15

# Elsewhere --own says that this code may be imported: a model's folder may be a stranger's.
pixel-reasoner generate --model sft/model --own enhance:EnhanceRegion --image photos/held_out/0000.jpg \
  --question "Which color does the balloon have?" --html answer.html
pixel-reasoner evaluate --model sft/model --own enhance:EnhanceRegion --on data:photos/held_out.jsonl \
  --out evaluation
echo "open $PWD/answer.html"
