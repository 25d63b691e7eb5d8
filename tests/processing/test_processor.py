"""Directories in and out, batches, and what may not be sampled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import transformers
from PIL import Image

from pixel_reasoner_jax.processing import Budgets, MediaError, Processor
from tests.processing.conftest import CONFIG, PREPROCESSOR


def conversation(*sizes: tuple[int, int], question: str = "What is it?") -> list[dict]:
    images = [{"type": "image", "image": Image.new("RGB", size, "olive")} for size in sizes]
    return [{"role": "user", "content": [*images, {"type": "text", "text": question}]}]


def test_the_real_directory(real):
    assert real.geometry.window_patches == 64
    assert real.geometry.tokens_per_second == 2
    assert (real.im_start, real.im_end, real.endoftext) == (151644, 151645, 151643)
    assert (real.image_pad, real.video_pad) == real.placeholder_tokens == (151655, 151656)
    assert (real.vision_start, real.vision_end) == (151652, 151653)
    assert real.stop_tokens == (151645, 151643)
    assert real.forbidden_tokens.tolist() == [*range(151652, 151657), *range(151665, 152064)]


def test_ids_without_a_token_are_forbidden_wherever_they_are(tiny):
    used = set(tiny.tokenizer.get_vocab().values())
    forbidden = set(tiny.forbidden_tokens.tolist())
    assert forbidden >= set(range(320)) - used
    assert {tiny.image_pad, tiny.video_pad, tiny.vision_start, tiny.vision_end} < forbidden
    assert not {tiny.im_end, tiny.endoftext, tiny.tokenizer.convert_tokens_to_ids("<tool_call>")} & forbidden


@pytest.mark.parametrize("source", ["real", "tiny"])
def test_saved_and_loaded_again(request, tmp_path, source):
    processor = request.getfixturevalue(source)
    budgets = Budgets(image=(4, 30), crop=(4, 20), frame=(4, 10), video=(4, 8), video_frames=6)
    processor = Processor(processor.tokenizer, processor.config, processor.preprocessor, budgets)
    processor.save_pretrained(tmp_path / "copy")
    again = Processor.from_pretrained(tmp_path / "copy")
    assert again.budgets == budgets
    assert again.geometry == processor.geometry
    assert again.ids == processor.ids
    messages = [*conversation((300, 200)), {"role": "assistant", "content": "<tool_call>\n{}\n</tool_call> é"}]
    ours, theirs = processor.render(messages), again.render(messages)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.media[0].patches, theirs.media[0].patches)
    np.testing.assert_array_equal(processor.forbidden_tokens, again.forbidden_tokens)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert tokenizer.chat_template == processor.tokenizer.chat_template
    text = "<|im_start|>user\nHi<|im_end|>\n<tool_call>"
    assert tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]
    assert transformers.AutoConfig.from_pretrained(tmp_path / "copy").model_type == "qwen2_5_vl"


def test_the_model_s_own_config_is_kept(tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl", "mine": 1}')
    tiny.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["mine"] == 1


def test_budgets_given_win_over_budgets_saved(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    budgets = Budgets(image=(4, 9))
    assert Processor.from_pretrained(tmp_path, budgets).budgets == budgets
    assert Processor.from_pretrained(tmp_path, frames=4).budgets.video_frames == 4


def long_video(seconds: int) -> list[dict]:
    """A question about four frames, `seconds` from each other."""
    frames = [Image.new("RGB", (56, 56), "olive")] * 4
    video = {"type": "video", "video": frames, "fps": 1 / seconds}
    return [{"role": "user", "content": [video, {"type": "text", "text": "What?"}]}]


def test_the_position_rule_is_saved_with_the_processor(tiny, tmp_path):
    """A checkpoint of Hugging Face has the released rule, one of ours from before it was a setting transformers'."""
    assert tiny.position_rule == "released"
    rendered = tiny.render(long_video(30))  # 4 positions a second, two pairs of frames
    positions, following = tiny.positions(rendered.tokens, rendered.media)
    start = positions[0, rendered.tokens == tiny.video_pad].min()
    after = positions[0, np.flatnonzero(rendered.tokens == tiny.video_pad)[-1] + 1]
    assert after == start + 4 * 60 + 1
    np.testing.assert_array_equal(tiny([long_video(30)])["positions"][:, 0], positions)

    other = Processor(tiny.tokenizer, CONFIG, PREPROCESSOR, position_rule="transformers")
    assert other.positions(rendered.tokens, rendered.media)[1] == following - (4 * 60 + 1 - 2)
    other.save_pretrained(tmp_path)
    assert Processor.from_pretrained(tmp_path).position_rule == "transformers"
    assert Processor.from_pretrained(tmp_path, position_rule="released").position_rule == "released"
    tiny.save_pretrained(tmp_path)
    assert Processor.from_pretrained(tmp_path).position_rule == "released"
    file = tmp_path / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    del saved["position_rule"]
    file.write_text(json.dumps(saved))
    assert Processor.from_pretrained(tmp_path).position_rule == "transformers"
    file.write_text(json.dumps({**saved, "position_rule": "mine"}))
    with pytest.raises(ValueError, match="there is no position rule 'mine'"):
        Processor.from_pretrained(tmp_path)


def test_a_video_longer_than_positions_can_count_is_refused(tiny):
    tiny.render(long_video(10**6))
    with pytest.raises(MediaError, match=r"4 frames, 1e-07 a second, lasts longer than positions can count"):
        tiny.render(long_video(10**7))
    tiny.video([Image.new("RGB", (56, 56))], fps=1e-9)  # one frame takes no time
    with pytest.raises(MediaError, match="lasts longer than positions can count"):
        tiny.video([Image.new("RGB", (56, 56))] * 2, fps=1e-38)


def test_what_does_not_fit_is_an_error(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        Processor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="patch_size 16"):
        Processor(tiny.tokenizer, CONFIG, {**PREPROCESSOR, "patch_size": 16})
    with pytest.raises(ValueError, match="image_std"):
        Processor(tiny.tokenizer, CONFIG, {"image_mean": [0, 0, 0]})
    small = {**CONFIG, "text_config": {"vocab_size": 10}}
    with pytest.raises(ValueError, match="vocab_size 10"):
        _ = Processor(tiny.tokenizer, small, PREPROCESSOR).forbidden_tokens


def test_nothing_needs_torch_or_tensorflow(tiny_directory):
    script = f"""
import sys
sys.modules["torch"] = sys.modules["tensorflow"] = sys.modules["torchvision"] = None
from PIL import Image
from pixel_reasoner_jax.processing import Processor
image = Image.new("RGB", (200, 100))
content = [{{"type": "image", "image": image}}, {{"type": "video", "video": [image] * 3}}]
batch = Processor.from_pretrained({str(tiny_directory)!r})([[{{"role": "user", "content": content}}]])
assert (batch["vision_index"] >= 0).sum() > 20
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"})


def test_batch(tiny):
    conversations = [conversation((84, 56), (112, 112)), conversation(question="?"), conversation((140, 112))]
    rendered = [tiny.render(messages) for messages in conversations]
    batch = tiny(conversations)
    lengths = [len(item.tokens) for item in rendered]
    assert batch["tokens"].shape == batch["segment_ids"].shape == batch["vision_index"].shape == (3, max(lengths))
    assert batch["positions"].shape == (3, 3, max(lengths))
    vision = batch["vision"]
    offset, factor = np.repeat(vision["scaling"], 1176 // 3, axis=-1)[:, :, None].swapaxes(0, 1)
    flat = ((vision["patches"].astype(np.float32) - offset) * factor).reshape(-1, 4, 1176)
    for row, item in enumerate(rendered):
        length = lengths[row]
        np.testing.assert_array_equal(batch["tokens"][row, :length], item.tokens)
        np.testing.assert_array_equal(batch["segment_ids"][row], np.arange(max(lengths)) < length)
        np.testing.assert_array_equal(batch["positions"][:, row, :length], tiny.positions(item.tokens, item.media)[0])
        index = batch["vision_index"][row]
        np.testing.assert_array_equal(index[:length] >= 0, item.tokens == tiny.image_pad)
        assert (index[length:] == -1).all()
        if item.media:
            expected = np.concatenate([media.patches for media in item.media]).reshape(-1, 4, 1176)
            np.testing.assert_allclose(flat[index[index >= 0]], expected, atol=5e-7)  # two units in the last place
    assert all(batch[name].dtype == np.int32 for name in ("tokens", "positions", "segment_ids", "vision_index"))
    assert vision["patches"].dtype == np.uint8


def test_batch_of_given_sizes(tiny):
    rendered = tiny.render(conversation((112, 112)))
    batch = tiny.batch([(rendered.tokens, rendered.media), rendered], length=200, row_patches=128, rows=3)
    assert batch["tokens"].shape == (2, 200)
    assert batch["vision"]["patches"].shape == (3, 128, 1176)
    assert tiny.batch([tiny.render(conversation())])["vision"] is None
    with pytest.raises(ValueError, match="does not fit in the batch's length of 5"):
        tiny.batch([rendered], length=5)


def test_a_conversation_that_is_not_in_a_list_is_named(tiny):
    for given, place in ((conversation(), 0), (conversation()[0], 0), ([conversation(), *conversation()], 1)):
        with pytest.raises(ValueError, match=rf"conversation {place} is not a list .*processor\(\[conversation\]\)"):
            tiny(given)
