"""Shows what an operation returns to the model for a right call, and what it is told of wrong ones.

python examples/new_operation/by_hand.py PHOTO
"""

import json
import sys

from PIL import Image

from pixel_reasoner_jax.operations import Call, MediaState, OperationError, allow_own, make_registry

RIGHT = {"bbox_2d": [0, 0.25, 1, 0.75], "target_image": 1}
WRONG = (
    {"bbox_2d": [0.6, 0.2, 0.4, 0.8], "target_image": 1},
    {"bbox_2d": [0, 112, 448, 336], "target_image": 1},
    {"bbox_2d": [0.5, 0.5, 0.51, 0.51], "target_image": 1},
    {"bbox_2d": "all of it", "target_image": 1},
    {"bbox_2d": [0, 0.25, 1, 1e999], "target_image": 1},
    {"bbox_2d": [0, 0.25, 1, 0.75], "target_image": 7},
    {"bbox_2d": [0, 0.25, 1, 0.75]},
)


def main(photo):
    allow_own(["enhance:EnhanceRegion"])  # the file is ours
    registry = make_registry(["enhance:EnhanceRegion"])
    state = MediaState.from_query([Image.open(photo).convert("RGB")])
    call = registry.parse(registry.write(Call("enhance_region", RIGHT)))
    result = registry.execute(call, state)
    [part] = result.images
    print(f"{json.dumps(RIGHT)}\n  box {result.boxes[0]} of image 1, brightness {state.images[0].getextrema()} to")
    print(f"  {part.getextrema()}; the model reads: {registry.observation_text(call, result, [part.size]).strip()}")
    for arguments in WRONG:
        try:
            registry.execute(Call("enhance_region", arguments), state)
        except OperationError as error:
            print(f"{json.dumps(arguments)}\n  {error}")


if __name__ == "__main__":
    main(sys.argv[1])
