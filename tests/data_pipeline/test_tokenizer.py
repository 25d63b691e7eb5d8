"""The small tokenizer: what becomes one token, and that it is as good as Qwen's in form."""

import json

import pytest
from transformers import AutoTokenizer

from data_pipeline.sources.pixel_search import CELL_BOXES
from data_pipeline.tokenizer import CHAT_TEMPLATE, PLAIN_TOKENS, SPECIAL_TOKENS, conversation_texts, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(world_directory):
    return AutoTokenizer.from_pretrained(world_directory)


def call(box) -> str:
    arguments = {"bbox_2d": list(box), "target_image": 1}
    return f"<tool_call>\n{json.dumps({'name': 'crop_image_normalized', 'arguments': arguments})}\n</tool_call>"


def test_added_tokens_and_template_are_qwens(tokenizer, qwen_dir):
    real = json.loads((qwen_dir / "tokenizer_config.json").read_text())
    added = {token["content"]: token["special"] for token in real["added_tokens_decoder"].values()}
    assert added == dict.fromkeys(SPECIAL_TOKENS, True) | dict.fromkeys(PLAIN_TOKENS, False)
    assert json.loads((qwen_dir / "chat_template.json").read_text())["chat_template"] == CHAT_TEMPLATE
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    for token in SPECIAL_TOKENS + PLAIN_TOKENS:
        assert tokenizer.encode(token) == [tokenizer.convert_tokens_to_ids(token)]


def test_a_call_is_short_and_boxes_differ_in_their_numbers_alone(tokenizer):
    encoded = [tokenizer.encode(call(box)) for box in CELL_BOXES]
    assert {len(ids) for ids in encoded} == {11}
    assert len({tuple(ids[3:7]) for ids in encoded}) == 16
    assert len({(*ids[:3], *ids[7:]) for ids in encoded}) == 1
    for digit in range(6):
        assert len(tokenizer.encode(f"The answer is \\boxed{{{digit}}}.")) == 3


@pytest.mark.parametrize("text", ["", "héllo\tworld 12.5, 3", "日本語 🙂\n\n{}", "userassistant\n<think>", "\x00\x7f"])
def test_any_text_can_be_encoded(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_header_of_a_message_never_merges_with_its_text(tokenizer):
    header = tokenizer.encode("user\n")
    assert len(header) == 1
    for text in ("\nHere is the cropped image (Image Size: ", "Which digit is in the colored box?", "\n\n"):
        assert tokenizer.encode(f"user\n{text}") == header + tokenizer.encode(text)


def test_tokens_are_those_of_the_chat_template(tokenizer, processor):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Which digit is in the colored box?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": call(CELL_BOXES[5])}]},
        {"role": "user", "content": [{"type": "text", "text": "\nHere is the cropped image"}]},
    ]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert processor.render(messages).tokens.tolist() == expected


def test_training_is_deterministic_and_checks_its_size():
    texts = conversation_texts([{"role": "user", "content": "zoom in, please zoom in"}])
    assert train_tokenizer(texts, 300).get_vocab() == train_tokenizer(texts, 300).get_vocab()
    with pytest.raises(ValueError, match="cannot hold 256 bytes"):
        train_tokenizer(texts, 256)
