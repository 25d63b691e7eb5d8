"""Trajectories whose calls are written in another syntax than the default one."""

from __future__ import annotations

import pytest
from PIL import Image

from data_pipeline.seed import Seed
from data_pipeline.synthesis.captioner import TemplateCaptioner
from data_pipeline.synthesis.synthesizer import BudgetMediaLoader, SynthesisError, Synthesizer
from pixel_reasoner_jax.operations import SYNTAXES, Call, make_registry

SEED = Seed("s", "What is it?", "a cat", images=(Image.new("RGB", (900, 700)),), cue=(0.6, 0.6, 0.7, 0.7))


@pytest.mark.parametrize("syntax", sorted(set(SYNTAXES) - {"assignment", "json"}))  # these have no words around a call
def test_a_trajectory_in_every_syntax(syntax):
    registry = make_registry(syntax=syntax)
    draft = Synthesizer(registry, BudgetMediaLoader(), TemplateCaptioner(), image_mix={"recrop_once": 1})(SEED)
    turns = [m for m in draft.messages if m["role"] == "assistant"]
    calls = [registry.parse("".join(item["text"] for item in turn["content"])) for turn in turns]
    assert calls == [*(Call(record.name, record.arguments) for record in draft.operations), None]
    assert [[item["train"] for item in turn["content"]] for turn in turns] == [[True, False], [True, True], [True]]
    assert registry.syntax.form(registry.operations) in draft.messages[0]["content"][0]["text"] or syntax == "tool_call"


def test_operations_that_do_not_crop_make_no_crops():
    with pytest.raises(SynthesisError, match="there is no function named"):
        Synthesizer(
            make_registry(("rotate_image",)), BudgetMediaLoader(), TemplateCaptioner(), image_mix={"single_pass": 1}
        )(SEED)
