"""Protocols are data: made by name, changed by part, and told apart by a hash."""

import dataclasses
import json

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.benchmarks import BENCHMARKS, Prompt, find_benchmark
from pixel_reasoner_jax.evaluation.compare import protocol_differences
from pixel_reasoner_jax.evaluation.protocol import PROTOCOLS, OwnSettings, make_protocol
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.rollout.prompt import GUIDELINES, TEXT_ONLY_GUIDELINES
from pixel_reasoner_jax.rollout.settings import PolicySettings

OWN = OwnSettings(
    PolicySettings("Look closely.", padding=0.2, box_rule="raw", limits=Limits(2, 100, 3, 500)),
    Budgets((16, 20), (4, 12), (4, 12), (4, 8), video_frames=5),
)
VSTAR = find_benchmark("vstar")


def test_the_paper_s():
    found = make_protocol(VSTAR, OWN)
    assert found.name == "paper" and found.scorer == "choice" and found.modes == ("pixel",)
    assert found.budgets.image == (256, 8000) and found.budgets.crop == (256, 5120)
    assert (found.sampling.temperature, found.samples, found.limits.max_images) == (0.0, 1, 16)
    assert (found.limits.max_operations, found.sampling.max_turn_tokens) == (4, 2048)
    assert (found.guidelines, found.text_guidelines) == (GUIDELINES, TEXT_ONLY_GUIDELINES)
    assert found.operations.box_rule == "raw"  # how calls are read is the model's own


@pytest.mark.parametrize("name", ["pixel_search", "data"])
def test_the_model_s_own_is_the_default_of_one_s_own_data(name):
    found = make_protocol(find_benchmark(name), OWN)
    assert (found.name, found.budgets, found.limits) == ("model", OWN.budgets, OWN.settings.limits)
    assert (found.guidelines, found.operations.padding) == ("Look closely.", 0.2)
    assert make_protocol(find_benchmark(name), OwnSettings()).guidelines == GUIDELINES


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_fits_every_benchmark(name, benchmark):
    found = make_protocol(find_benchmark(benchmark), OWN, name)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.scorer in find_benchmark(benchmark).scorers and len(found.hash) == 16


def test_harnesses_have_their_budgets_prompts_and_rules():
    lmms, vlm = make_protocol(VSTAR, OWN, "lmms-eval"), make_protocol(VSTAR, OWN, "vlmevalkit")
    assert (lmms.budgets.image, vlm.budgets.image) == ((256, 2048), (1280, 16384))
    assert (lmms.scorer, vlm.scorer) == ("lmms-eval-letter", "vlmevalkit-letter")
    assert lmms.prompt.option == "{letter}. {text}" and vlm.prompt.template.startswith("Question: ")
    assert lmms.modes == vlm.modes == ("text",) and lmms.text_guidelines == ""
    assert make_protocol(find_benchmark("docvqa"), OWN, "vlmevalkit").scorer == "anls-raw"


def test_parts_are_changed_by_name():
    changes = {
        "budgets.image": "256,16384",
        "budgets.video_rate": "0.5",
        "sampling.temperature": "1",
        "samples": "8",
        "limits.max_length": "4096",
        "operations.release": "true",
        "operations.names": "crop_image_normalized,rotate_image",
        "operations.syntax": "action",
        "prompt": "lmms-eval",
        "prompt.option": "{letter}) {text}",
        "guidelines": "Think.",
        "mode": "both",
        "scorer": "mini-o3",
        "order": "shuffled",
    }
    found = make_protocol(VSTAR, OWN, changes=changes)
    assert (found.budgets.image, found.budgets.crop) == ((256, 16384), (256, 5120))
    assert (found.budgets.video_rate, found.limits.max_length, found.limits.max_images) == (0.5, 4096, 16)
    assert (found.samples, found.sampling.temperature, found.sampling.max_turn_tokens) == (8, 1.0, 2048)
    assert found.operations.names == ("crop_image_normalized", "rotate_image")
    assert found.to_json()["operations"]["syntax"] == "action" and found.operations.registry().stop_strings
    assert found.operations.release is True and found.modes == ("pixel", "text")
    assert found.prompt == Prompt(VSTAR.prompts["lmms-eval"].template, "{letter}) {text}")
    assert (found.guidelines, found.scorer, found.order) == ("Think.", "mini-o3", "shuffled")
    assert make_protocol(VSTAR, OWN, changes={"limits.max_length": "none"}).limits.max_length is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets.imaeg": "1,2"}, "no part 'budgets.imaeg'; did you mean 'budgets.image'"),
        ({"name": "mine"}, "no part 'name'"),
        ({"budgets": "1,2"}, "no part 'budgets'; "),
        ({"sampling.later": "1"}, "no part 'sampling.later'"),
        ({"budgets.image": "8000"}, r"budgets.image is LEAST,MOST in tokens, such as 256,8000, not '8000'"),
        ({"budgets.image": "9,8"}, "1 <= least <= most"),
        ({"samples": "many"}, "samples is a whole number, not 'many'"),
        ({"samples": "4"}, "4 samples at temperature 0 would all be alike"),
        ({"samples": "0"}, "samples must be at least 1"),
        ({"operations.release": "si"}, "true or false"),
        ({"mode": "pixels"}, "mode is pixel, text or both"),
        ({"prompt": "nobody"}, "V[*] bench has no prompt 'nobody'; it has plain, lmms-eval, vlmevalkit"),
        ({"prompt.template": "{frage}"}, "'frage' is neither"),
        ({"scorer": "guess"}, "unknown scorer 'guess'"),
        ({"operations.box_rule": "odd"}, "no box rule"),
        ({"operations.names": "zoom"}, "unknown operation 'zoom'"),
        ({"operations.syntax": "xml"}, "unknown syntax of calls 'xml'"),
        ({"operations.names": "no_such_module:Zoom"}, "cannot be imported"),  # the user's own command names it
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        make_protocol(VSTAR, OWN, changes=changes)


def test_operations_of_every_model_so_far_are_no_part_of_the_hash():
    """Evaluations that earlier versions began go on."""
    assert set(make_protocol(VSTAR, OWN).to_json()["operations"]) == {"padding", "release", "box_rule"}


def test_an_unknown_protocol():
    with pytest.raises(UserError, match="known: paper, model, lmms-eval, vlmevalkit"):
        make_protocol(VSTAR, OWN, "papers")


def test_the_hash_is_of_every_part_but_the_name():
    one = make_protocol(VSTAR, OWN)
    assert dataclasses.replace(one, name="other").hash == one.hash == make_protocol(VSTAR, OWN, "paper").hash
    changed = [
        make_protocol(VSTAR, OWN, changes={key: value})
        for key, value in {
            "seed": "1",
            "order_seed": "1",
            "budgets.video_frames": "8",
            "limits.max_images": "4",
            "prompt": "lmms-eval",
            "operations.padding": "0.5",
            "operations.names": "zoom_image",
            "text_guidelines": "",
        }.items()
    ]
    assert len({one.hash, *(other.hash for other in changed)}) == len(changed) + 1
    assert [name for name, *_ in protocol_differences(one.to_json(), changed[2].to_json())] == ["budgets.video_frames"]
