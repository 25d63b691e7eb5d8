"""Reads the tokenizer of a checkpoint's folder, and says in one line what is wrong with its files."""

from __future__ import annotations

import json
import os

import transformers

from pixel_reasoner_jax.errors import MissingModelError, UserError
from pixel_reasoner_jax.files import as_path, fetch
from pixel_reasoner_jax.model_files import base_directory, check_is_no_pointer, find_file, read_json

PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model")  # of a tokenizer's files
NEEDED = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # any of these


def read_tokenizer(directory: str | os.PathLike) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint's folder, with the chat template beside it.

    Args:
      directory: here or in an object store. An adapter's folder may have a tokenizer of its own.

    Raises:
      UserError: its files are missing or damaged; the message names the folder, and the file where that is known.
    """
    directory = as_path(directory)
    own = (directory / "tokenizer_config.json").exists()
    directory = directory if own else base_directory(directory)
    local = fetch(directory, *PATTERNS)
    present = [names for names in NEEDED if all((local / name).exists() for name in names)]
    if not present:
        raise MissingModelError(f"{directory} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    for name in (*present[0], "tokenizer_config.json"):
        if (local / name).exists():
            check_is_no_pointer(local / name)
    template = find_file(directory, "chat_template.json")
    template = template and read_json(template).get("chat_template")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(local, local_files_only=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
        tokenizer.chat_template = tokenizer.chat_template or template
        settings = [tokenizer.init_kwargs, tokenizer.chat_template]
        json.dumps(settings, ensure_ascii=False, default=str).encode()  # or half a surrogate pair could not be saved
    except BaseException as error:  # what the library raises of a damaged file has no class of its own
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{directory}: its tokenizer cannot be read ({reason}); get {' and '.join(present[0])} and"
            " tokenizer_config.json of the model again"
        ) from error
    if backend is None:
        raise UserError(
            f"{directory}: its tokenizer is a {type(tokenizer).__name__}, without a fast form; Qwen's have it"
        )
    return tokenizer
