"""How to prompt a checkpoint: its guidelines, operations and limits, saved beside its weights."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import jax
from jax.sharding import Mesh

from pixel_reasoner_jax.checkpoint import check_is_no_run
from pixel_reasoner_jax.config_values import BOX_RULES, DEFAULT_OPERATIONS, DEFAULT_SYNTAX, EARLIER_BOX_RULE
from pixel_reasoner_jax.errors import MissingModelError, UserError, shown
from pixel_reasoner_jax.files import as_path, write_text
from pixel_reasoner_jax.model_files import base_directory, find_file, model_directory, read_json
from pixel_reasoner_jax.models import Qwen2_5_VL
from pixel_reasoner_jax.models.weights import read_config, stored_dtype
from pixel_reasoner_jax.operations import Registry, make_registry
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.policy import Policy

FILE = "pixel_reasoner.json"


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What defines a policy beside its weights and its processor.

    Attributes:
      guidelines: the text after the question; None for the paper's.
      padding: how far a crop's box is widened on every side, as a fraction of the image's side.
      release: whether the operations are those of the released code (`operations.default_registry`).
      box_rule: how the boxes of calls are read, "shown" or "raw" (`operations.CropImage`).
      operations: the names of those that it may call, and
      syntax: how it writes a call (`operations.make_registry`).
      limits: where a response ends.
    """

    guidelines: str | None = None
    padding: float = 0.1
    release: bool = False
    box_rule: str = "shown"
    operations: tuple[str, ...] = DEFAULT_OPERATIONS
    syntax: str = DEFAULT_SYNTAX
    limits: Limits = Limits()

    def __post_init__(self):
        if self.box_rule not in BOX_RULES:
            raise UserError(f"box_rule is {self.box_rule!r}; it is one of {', '.join(map(repr, BOX_RULES))}")
        names = self.operations
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in (*names, self.syntax)):
            raise UserError(f"operations is {shown(names)} and syntax {shown(self.syntax)}: names must be texts")
        object.__setattr__(self, "operations", tuple(names))

    def registry(self) -> Registry:
        """The operations that the policy may call.

        Raises:
          UserError: one of them is not known, or is one's own and was not allowed (`operations.allow_own`).
        """
        return make_registry(self.operations, self.syntax, self.padding, self.release, self.box_rule)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> PolicySettings:
        """Reads the settings saved in a checkpoint directory; a Hugging Face checkpoint has none and gets the defaults.

        An adapter's are in its folder, or those of the model that it was trained on.

        A model of ours that was saved before there was a `box_rule` has learnt "raw".

        Raises:
          UserError: the file is not JSON, or has an unknown key or a value out of range; the message names the file.
        """
        path = find_file(directory, FILE)
        if path is None:
            return cls()
        try:
            settings = read_json(path)
            return cls(**{"box_rule": EARLIER_BOX_RULE, **settings, "limits": Limits(**settings.get("limits", {}))})
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: not the settings of a policy ({error}); restore it, or remove it to take the defaults"
            ) from error

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the settings into a checkpoint directory."""
        write_text(as_path(directory) / FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def check_is_model(directory: str | os.PathLike) -> None:
    """Checks what can be told of a model directory from its small files.

    Raises:
      MissingFileError: there is no such directory, or a file is missing from it.
      UserError: it is a run's, or its configuration does not fit; the message names the file.
    """
    directory = model_directory(directory)
    check_is_no_run(directory)
    if not (base_directory(directory) / "config.json").exists():
        raise MissingModelError(f"{directory}: no config.json in it, so it is not a model directory")
    read_config(directory)


def load_policy(
    directory: str | os.PathLike,
    *,
    dtype: str = "auto",
    text_only: bool = False,
    mesh: Mesh | None = None,
    **options: Any,
) -> Policy:
    """Loads a policy from a checkpoint directory, ours or Hugging Face's; nothing is downloaded.

    Args:
      directory: holds config.json, safetensors and tokenizer, or an adapter of a model that does.
      dtype: type of the parameters, or "auto"; see `parameter_type`.
      text_only: offer no operations.
      mesh: the devices that the model is put on; None for the default one.
      options: further arguments of `Policy`, such as `decode_steps`.

    Raises:
      MissingFileError: there is no such directory, or a file is missing from it.
      UserError: a file does not fit the model; the message names the file.
    """
    # Small files are read first, so that a mistake in one of them shows before a large model is loaded.
    check_is_model(directory)
    settings = PolicySettings.load(directory)
    registry, processor = settings.registry(), Processor.from_pretrained(directory)
    return Policy(
        Qwen2_5_VL.from_pretrained(directory, dtype=parameter_type(directory, dtype), mesh=mesh),
        processor,
        registry=registry,
        limits=settings.limits,
        guidelines=None if text_only else settings.guidelines,
        text_only=text_only,
        **options,
    )


def parameter_type(directory: str | os.PathLike, dtype: str = "auto") -> str:
    """The type that a model's parameters are loaded in.

    Args:
      directory: of the model.
      dtype: a type, which is returned; or "auto": the type that they are stored in, but bfloat16 in the place of
        float16, for which activations are too large, and float32 on a CPU, where XLA cannot compute products of others
        in every shape.
    """
    if dtype != "auto":
        return dtype
    if jax.default_backend() == "cpu":
        return "float32"
    stored = stored_dtype(directory)
    return "bfloat16" if stored == "float16" else stored
