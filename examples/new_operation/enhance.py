"""An operation of one's own: it cuts a part out of an image and spreads its brightness, so that dark details show."""

from PIL import ImageOps

from pixel_reasoner_jax.operations import Operation, OperationError, Result
from pixel_reasoner_jax.operations.arguments import check_names, check_numbers, find_image, signature
from pixel_reasoner_jax.operations.base import edited
from pixel_reasoner_jax.operations.boxes import check_area, check_box, in_full_size, place_box


class EnhanceRegion(Operation):
    name = "enhance_region"
    arguments = ("bbox_2d", "target_image")
    phrase = "enhance {bbox_2d} in image {target_image}"  # for the syntax "action"

    def describe(self, state):
        box = {"type": "array", "description": "[x1, y1, x2, y2], each from 0 to 1.", "items": {"type": "number"}}
        number = {"type": "number", "description": "1 is the original image, later ones are earlier parts."}
        return signature(self.name, "Brighten a part of a dark image.", {"bbox_2d": box, "target_image": number})

    def run(self, arguments, state):
        check_names(arguments, self.arguments)  # they are what the model wrote: anything
        corners = check_numbers("bbox_2d", arguments["bbox_2d"], "[x1, y1, x2, y2]")
        if not 0 <= min(corners) <= max(corners) <= 1:
            raise OperationError("bbox_2d must be fractions of the image, from 0 to 1")
        check_box("bbox_2d", corners)
        source = find_image("target_image", arguments["target_image"], state, "enhance")
        image = state.pictures[source]
        box = place_box(corners, image.size, image.size)
        check_area(box, image.size)
        part = edited(image.crop(box), ImageOps.autocontrast, self.name)
        return Result([part], "crop", len(state.images) + 1, (in_full_size(box, image.size, image),), (source,))

    def observation_text(self, result, sizes):
        return f"\nHere is the enhanced part (Image Size: {sizes[0][0]}x{sizes[0][1]}):"
