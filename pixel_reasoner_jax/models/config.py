"""Sizes of the Qwen2.5-VL family, to and from Hugging Face's `config.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import UserError, shown


class ModelConfigError(UserError):
    """A configuration this model cannot run, with the key at fault in the message."""


def _require_divisible(name: str, value: int, by_name: str, by: int) -> None:
    if by <= 0 or value % by:
        raise ModelConfigError(
            f"{name} {value} is not a multiple of {by_name}" + ("" if str(by) in by_name else f" {by}")
        )


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Names follow Hugging Face's `vision_config`; sizes of windows and patches are in pixels."""

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 3584
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    tokens_per_second: int = 2
    rope_theta: float = 10000.0
    initializer_range: float = 0.02  # standard deviation of the patch embedding; projections go by their width

    def __post_init__(self):
        _require_divisible("vision_config.hidden_size", self.hidden_size, "num_heads", self.num_heads)
        _require_divisible("vision_config head size", self.head_dim, "4 (2D rotary)", 4)
        _require_divisible(
            "vision_config.window_size",
            self.window_size,
            "patch_size * spatial_merge_size",
            self.patch_size * self.spatial_merge_size,
        )
        if outside := [i for i in self.fullatt_block_indexes if not 0 <= i < self.depth]:
            raise ModelConfigError(f"vision_config.fullatt_block_indexes names layers {outside} of {self.depth}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values in one patch: channels x time x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_patches(self) -> int:
        """Patches merged into one token."""
        return self.spatial_merge_size**2

    @property
    def window_patches(self) -> int:
        """Patches in one full attention window."""
        return (self.window_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Qwen2.5-VL. Names follow Hugging Face's `text_config`; `vision` holds the tower."""

    vision: VisionConfig = VisionConfig()
    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 128000
    initializer_range: float = 0.02  # standard deviation of the token embeddings; projections go by their width
    bos_token_id: int | None = 151643
    eos_token_id: int | tuple[int, ...] | None = 151645
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    image_token_id: int = 151655
    video_token_id: int = 151656

    def __post_init__(self):
        _require_divisible("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
        _require_divisible(
            "num_attention_heads", self.num_attention_heads, "num_key_value_heads", self.num_key_value_heads
        )
        if len(self.mrope_section) != 3 or 2 * sum(self.mrope_section) != self.head_dim:
            raise ModelConfigError(
                f"mrope_section {self.mrope_section} must be three sizes that sum to half the head size {self.head_dim}"
            )
        if self.vision.out_hidden_size != self.hidden_size:
            raise ModelConfigError(
                f"vision_config.out_hidden_size is {self.vision.out_hidden_size}, but hidden_size is {self.hidden_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def divisible(self) -> dict[str, dict[str, int]]:
        """The sizes of the parameters' axes, by logical name (`parallel.sharding.RULES`) and then by config key.

        The vocabulary is left out: its size may be odd, and then it is replicated on every device.
        """
        vision = self.vision
        merged = {"vision_config.hidden_size * spatial_merge_size**2": vision.hidden_size * vision.merge_patches}
        return {
            "embed": {"hidden_size": self.hidden_size, "vision_config.hidden_size": vision.hidden_size, **merged},
            "heads": {"num_attention_heads": self.num_attention_heads, "vision_config.num_heads": vision.num_heads},
            "kv_heads": {"num_key_value_heads": self.num_key_value_heads},
            "mlp": {
                "intermediate_size": self.intermediate_size,
                "vision_config.intermediate_size": vision.intermediate_size,
                **merged,
            },
        }

    @classmethod
    def preset(cls, name: str) -> Config:
        """A released size ("3b", "7b", "32b", "72b") or "tiny", which a laptop trains in minutes."""
        try:
            return _PRESETS[name]
        except KeyError:
            raise ModelConfigError(f"unknown preset {name!r}; there are {', '.join(_PRESETS)}") from None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Config:
        """Reads a parsed `config.json`, flat as released or nested as transformers 5 writes it.

        Raises:
          ModelConfigError: another model type, or a feature this model does not implement; the message names the key.
        """
        _check_model_type(config.get("model_type"))
        _check_quantization(config)
        text = _section(config, "text_config") or config
        vision = _section(config, "vision_config")
        if not vision:
            raise ModelConfigError("config has no vision_config")
        _check_supported(text, vision)
        rope = _rope(text)
        values = {key: config[key] for key in (*_ROOT_KEYS, *_TOKENS) if config.get(key) is not None}
        values |= {key: text[key] for key in _TEXT_KEYS if text.get(key) is not None}
        values["tie_word_embeddings"] = bool(
            config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)
        )
        if "eos_token_id" in values:
            values["eos_token_id"] = _numbers(values["eos_token_id"])
        values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
        missing = [key for key in _TEXT_REQUIRED if values.get(key) is None]
        if missing:
            raise ModelConfigError(f"config lacks {', '.join(missing)}")
        _check_types(cls, values | rope)
        return cls(vision=_vision_from_hf(vision), **values, **rope)

    def to_hf(self) -> dict[str, Any]:
        """The nested form that transformers 5 writes and loads, and transformers 4 from 4.52 on, as JSON types."""
        vision = dataclasses.asdict(self.vision)
        theta = vision.pop("rope_theta")
        vision |= {
            "model_type": "qwen2_5_vl_vision",
            "hidden_act": "silu",
            "fullatt_block_indexes": list(self.vision.fullatt_block_indexes),
            "rope_parameters": {"rope_type": "axial", "rope_theta": theta},
        }
        eos = self.eos_token_id
        text = {key: getattr(self, key) for key in _TEXT_KEYS} | {
            "model_type": "qwen2_5_vl_text",
            "hidden_act": "silu",
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "use_sliding_window": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "mrope_section": list(self.mrope_section),
            },
            "rope_theta": self.rope_theta,  # this and the next are what transformers 4 reads
            "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": list(self.mrope_section)},
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "tie_word_embeddings": self.tie_word_embeddings,
            "text_config": text,
            "vision_config": vision,
        } | {key: getattr(self, key) for key in _ROOT_KEYS}


_TEXT_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_TOKENS = ("bos_token_id", "eos_token_id")
_TEXT_KEYS = (*_TEXT_REQUIRED, "rms_norm_eps", "max_position_embeddings", "initializer_range", *_TOKENS)
_ROOT_KEYS = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
_OTHERS = {  # other networks that are taken for this one
    "qwen2_vl": "Qwen2-VL, an earlier network",
    "qwen2_5_omni": "Qwen2.5-Omni, which hears and speaks",
    "qwen2_5_omni_thinker": "a part of Qwen2.5-Omni",
    "qwen3_vl": "Qwen3-VL, a later network",
    "qwen3_vl_moe": "Qwen3-VL, a later network",
    "qwen2": "Qwen2 or Qwen2.5, which sees no images",
    "qwen2_moe": "Qwen2, which sees no images",
    "qwen3": "Qwen3, which sees no images",
    "qwen2_5_vl_text": "the decoder of a Qwen2.5-VL alone",
    "qwen2_5_vl_vision": "the vision tower of a Qwen2.5-VL alone",
}
_QUANTIZED = {"awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8"}


def _check_model_type(kind: Any) -> None:
    if kind == "qwen2_5_vl":
        return
    known = _OTHERS.get(kind) if isinstance(kind, str) else None
    what = f": this is {known}" if known else ""
    raise ModelConfigError(
        f"model_type is {shown(kind)}; only 'qwen2_5_vl' is supported{what}; take a Qwen2.5-VL, such as"
        " Qwen/Qwen2.5-VL-7B-Instruct"
    )


def _check_quantization(config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config") or (_section(config, "text_config") or {}).get(
        "quantization_config"
    )
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    name = _QUANTIZED.get(method, method) if isinstance(method, str) else "a kind that it does not name"
    raise ModelConfigError(
        f"quantization_config: the weights are quantized ({name:.40}), and only float32, float16 and bfloat16 are"
        " supported; take the model that it was made of, such as Qwen/Qwen2.5-VL-7B-Instruct"
    )


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    section = config.get(key)
    if section is not None and not isinstance(section, Mapping):
        raise ModelConfigError(f"{key} is {shown(section)}; it must be an object")
    return section


def _check_types(kind: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Checks that numbers are numbers, of the type that the fields of a dataclass have."""
    for field in dataclasses.fields(kind):
        if field.name not in values or field.name == "vision":
            continue
        value = values[field.name]
        if field.name in ("mrope_section", "fullatt_block_indexes") or isinstance(value, tuple):
            right = isinstance(value, tuple) and all(type(entry) is int for entry in value)
            wanted = "whole numbers"
        elif isinstance(field.default, float):
            right, wanted = type(value) in (int, float) and 0 <= value < math.inf, "a number"
        elif isinstance(field.default, bool):
            right, wanted = type(value) is bool, "true or false"
        else:
            right, wanted = type(value) is int and value >= 0, "a whole number"
        if not right:
            raise ModelConfigError(f"{prefix}{field.name} is {shown(value)}; it must be {wanted}")


def _check_supported(text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    for where, part in (("", text), ("vision_config.", vision)):
        if (act := part.get("hidden_act", "silu")) != "silu":
            raise ModelConfigError(f"{where}hidden_act is {act!r}; only 'silu' is supported")
    layers = text.get("num_hidden_layers", 0)
    whole, kinds = text.get("max_window_layers", layers), text.get("layer_types")
    all_whole = isinstance(whole, int) and isinstance(layers, int) and whole >= layers
    if text.get("use_sliding_window") and not all_whole or isinstance(kinds, list) and "sliding_attention" in kinds:
        raise ModelConfigError("use_sliding_window: sliding-window attention in the decoder is not supported")


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    rope = _section(text, "rope_parameters") or _section(text, "rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ModelConfigError(f"rope_parameters: rope type {kind!r} is not supported, only M-RoPE without scaling")
    return {
        "rope_theta": _number(rope.get("rope_theta", text.get("rope_theta", Config.rope_theta)), "rope_theta"),
        "mrope_section": _numbers(rope.get("mrope_section", Config.mrope_section)),
    }


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float):
        raise ModelConfigError(f"{key} is {shown(value)}; it must be a number")
    return float(value)


def _numbers(value: Any) -> Any:
    """A list as a tuple; `_check_types` says what is wrong with anything else."""
    return tuple(value) if isinstance(value, list | tuple) else value


def _vision_from_hf(vision: Mapping[str, Any]) -> VisionConfig:
    names = {field.name for field in dataclasses.fields(VisionConfig)}
    values = {key: value for key, value in vision.items() if key in names and value is not None}
    if "in_channels" not in values and "in_chans" in vision:  # the released files' name for it
        values["in_channels"] = vision["in_chans"]
    if "fullatt_block_indexes" in values:
        values["fullatt_block_indexes"] = _numbers(values["fullatt_block_indexes"])
    rope = _section(vision, "rope_parameters") or {}
    values["rope_theta"] = _number(rope.get("rope_theta", VisionConfig.rope_theta), "vision_config.rope_theta")
    _check_types(VisionConfig, values, "vision_config.")
    return VisionConfig(**values)


def _released(layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, vision: int, **other) -> Config:
    return Config(
        vision=VisionConfig(out_hidden_size=hidden, intermediate_size=vision),
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        **other,
    )


_PRESETS = {
    "tiny": Config(
        vision=VisionConfig(
            depth=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=4,
            out_hidden_size=96,
            fullatt_block_indexes=(1,),
            initializer_range=0.06,
        ),
        rope_theta=2.0,  # with 4 frequencies an axis, the usual base would leave a few patches apart all but alike
        initializer_range=0.1,
        vocab_size=512,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(4, 4, 4),
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=505,
        eos_token_id=507,
        vision_start_token_id=508,
        vision_end_token_id=509,
        image_token_id=510,
        video_token_id=511,
    ),
    "3b": _released(36, 2048, 16, 2, 11008, 3420, vocab_size=151936, tie_word_embeddings=True),
    "7b": _released(28, 3584, 28, 4, 18944, 3420),
    "32b": _released(64, 5120, 40, 8, 27648, 3456),
    "72b": _released(80, 8192, 64, 8, 29568, 3456),
}
