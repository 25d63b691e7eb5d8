"""A protocol: all that decides a benchmark's figure beside the data and the model, as data.

The same weights differ by many points from one protocol to another, so results hold the whole protocol of every
benchmark, with each of its values, and a hash that tells two of them apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pixel_reasoner_jax.config_values import DEFAULT_OPERATIONS, DEFAULT_SYNTAX
from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.evaluation.benchmarks import Benchmark, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import ORDERS
from pixel_reasoner_jax.evaluation.judge import JUDGE, JudgedBy
from pixel_reasoner_jax.evaluation.records import MODES
from pixel_reasoner_jax.evaluation.scorers import find_scorer
from pixel_reasoner_jax.operations import Registry, allow_own, make_registry
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout import Limits, SamplingSettings
from pixel_reasoner_jax.rollout.prompt import GUIDELINES, TEXT_ONLY_GUIDELINES, default_guidelines
from pixel_reasoner_jax.rollout.settings import PolicySettings

_LATER_PARTS = {"names": list(DEFAULT_OPERATIONS), "syntax": DEFAULT_SYNTAX}
"""Parts of the operations that a protocol of an earlier version lacks, with what they were then: with these values they
are no part of the JSON, so that its hash is that of the earlier one."""

NAMED_BY = "prompt"  # the part of a protocol that a flag sets by its name among the benchmark's prompts


@dataclasses.dataclass(frozen=True)
class OperationSettings:
    """How operations crop, and how calls are read; see `PolicySettings`."""

    padding: float = 0.1
    release: bool = False
    box_rule: str = "shown"
    names: tuple[str, ...] = DEFAULT_OPERATIONS
    syntax: str = DEFAULT_SYNTAX

    def __post_init__(self):
        self.registry()

    def registry(self) -> Registry:
        """The operations that a policy may call.

        Raises:
          UserError: a value that they cannot have.
        """
        return make_registry(self.names, self.syntax, self.padding, self.release, self.box_rule)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
      name: what it was made from. It is no part of the hash.
      mode: "pixel", with operations; "text", without; or "both", each item in either.
      prompt: the words around a question.
      guidelines, text_guidelines: the text after it, with operations and without; "" for none.
      operations: how they crop.
      budgets: tokens of every kind of image, and frames of a video.
      sampling: how tokens are drawn.
      samples: responses to each item.
      seed: of sampling.
      limits: where a response ends.
      scorer: the name of the rule whose score is the figure, or "judge".
      order: of the options, "published" or "shuffled".
      order_seed: of the shuffling, and of worlds that are drawn.
      judge: the model that scores, where the scorer is "judge"; else None.
    """

    name: str
    prompt: Prompt
    scorer: str
    mode: str = MODES[0]
    guidelines: str = GUIDELINES
    text_guidelines: str = TEXT_ONLY_GUIDELINES
    operations: OperationSettings = OperationSettings()
    budgets: Budgets = Budgets()
    sampling: SamplingSettings = SamplingSettings(temperature=0.0)
    samples: int = 1
    seed: int = 0
    limits: Limits = Limits()
    order: str = ORDERS[0]
    order_seed: int = 0
    judge: JudgedBy | None = None

    def __post_init__(self):
        if self.mode not in (*MODES, "both"):
            raise UserError(f"a protocol's mode is {', '.join(MODES)} or both, not {shown(self.mode)}")
        if self.order not in ORDERS:
            raise UserError(f"a protocol's order is {' or '.join(ORDERS)}, not {shown(self.order)}")
        if self.samples < 1:
            raise UserError(f"a protocol's samples must be at least 1, got {self.samples}")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise UserError(
                f"{self.samples} samples at temperature 0 would all be alike: set a temperature (--temperature 1)"
            )
        try:
            self.prompt.template.format(question="", options="")
            self.prompt.option.format(letter="", text="")
        except (LookupError, ValueError) as error:
            raise UserError(f"a prompt's words have {{question}} and {{options}}, {error} is neither") from None
        if self.scorer != JUDGE:
            find_scorer(self.scorer)
        elif self.judge is None:
            raise UserError(f"the scorer {JUDGE} asks a model: name it with --judge URL --judge-model NAME")

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes in which every item is answered."""
        return MODES if self.mode == "both" else (self.mode,)

    def to_json(self) -> dict[str, Any]:
        """The protocol in types that JSON has."""
        found = json.loads(json.dumps(dataclasses.asdict(self)))
        for name, value in _LATER_PARTS.items():
            if found["operations"][name] == value:
                del found["operations"][name]
        return found

    @property
    def hash(self) -> str:
        """Equal for protocols that differ in nothing but their names."""
        parts = {key: value for key, value in self.to_json().items() if key != "name"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class OwnSettings:
    """What a model brings along: how it was prompted, its operations and limits, and its budgets."""

    settings: PolicySettings = PolicySettings()
    budgets: Budgets = Budgets()

    @property
    def operations(self) -> OperationSettings:
        own = {key: getattr(self.settings, key) for key in ("padding", "release", "box_rule", "syntax")}
        return OperationSettings(**own, names=self.settings.operations)


def _plain(benchmark: type[Benchmark]) -> Prompt:
    """Our own words, else a benchmark's first ones."""
    return benchmark.prompts.get("plain") or next(iter(benchmark.prompts.values()))


def _paper(benchmark: type[Benchmark], own: OwnSettings) -> Protocol:
    """Pixel Reasoner's evaluation, as its paper and its released scripts have it. Operations are the model's own."""
    return Protocol(
        "paper",
        _plain(benchmark),
        benchmark.scorer,
        guidelines=default_guidelines(own.operations.registry()),
        operations=own.operations,
        budgets=Budgets((256, 8000), (256, 5120), (256, 5120), (4, 512), video_frames=16),
        sampling=SamplingSettings(0.0, max_turn_tokens=2048),
        limits=Limits(max_operations=4, max_response_tokens=12_288, max_images=16),
    )


def _model(benchmark: type[Benchmark], own: OwnSettings) -> Protocol:
    """All as the model was trained; greedy."""
    guidelines = own.settings.guidelines
    return Protocol(
        "model",
        _plain(benchmark),
        benchmark.scorer,
        guidelines=default_guidelines(own.settings.registry()) if guidelines is None else guidelines,
        operations=own.operations,
        budgets=own.budgets,
        limits=own.settings.limits,
    )


def _lmms_eval(benchmark: type[Benchmark], own: OwnSettings) -> Protocol:
    """lmms-eval: no operations, the answer alone in a few tokens; its tasks say 16 or 32 of them."""
    return _harness(
        "lmms-eval", benchmark, own, Budgets((256, 2048), video=(256, 2048), video_frames=32), SamplingSettings(0.0), 32
    )


def _vlmevalkit(benchmark: type[Benchmark], own: OwnSettings) -> Protocol:
    """VLMEvalKit with its settings of Qwen2.5-VL-7B-Instruct; no operations."""
    budgets = Budgets((1280, 16384), video=(128, 768), video_frames=8)
    return _harness("vlmevalkit", benchmark, own, budgets, SamplingSettings(0.01), 2048)


def _harness(
    name: str,
    benchmark: type[Benchmark],
    own: OwnSettings,
    budgets: Budgets,
    sampling: SamplingSettings,
    tokens: int,
) -> Protocol:
    """What harnesses share: nothing follows the question, and their own rule scores where the benchmark has it."""
    rules = [scorer for scorer in benchmark.scorers if name in scorer or scorer in ("anls-raw",)]
    return Protocol(
        name,
        benchmark.prompts.get(name, _plain(benchmark)),
        next(iter(rules), benchmark.scorer),
        mode="text",
        guidelines="",
        text_guidelines="",
        operations=own.operations,
        budgets=budgets,
        sampling=sampling,
        limits=Limits(max_response_tokens=tokens),
    )


PROTOCOLS: Mapping[str, Callable[[type[Benchmark], OwnSettings], Protocol]] = {
    "paper": _paper,
    "model": _model,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}


def make_protocol(
    benchmark: type[Benchmark],
    own: OwnSettings,
    name: str | None = None,
    changes: Mapping[str, str] | None = None,
    judge: JudgedBy | None = None,
) -> Protocol:
    """The protocol of a benchmark.

    Args:
      benchmark: its class.
      own: what the model brings along, for the parts that are the model's.
      name: one of `PROTOCOLS`; None for the benchmark's own default.
      changes: parts to change, dotted names to texts: "budgets.image" to "256,16384", "sampling.temperature" to "1".
        "prompt" is the name of one of the benchmark's prompts.
      judge: a model that can score; it does where the benchmark wants one, or the scorer is changed to "judge".

    Raises:
      UserError: an unknown name or part, or a value that a part cannot have.
    """
    name = benchmark.protocol if name is None else name
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {shown(name)}; known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name](benchmark, own)
    changes = dict(changes or {})
    scorer = changes.pop("scorer", JUDGE if judge and benchmark.wants_judge else protocol.scorer)
    protocol = dataclasses.replace(protocol, scorer=scorer, judge=judge if scorer == JUDGE else None)
    if NAMED_BY in changes:
        chosen = changes.pop(NAMED_BY)
        if chosen not in benchmark.prompts:
            raise UserError(f"{benchmark.title} has no prompt {shown(chosen)}; it has {', '.join(benchmark.prompts)}")
        protocol = dataclasses.replace(protocol, prompt=benchmark.prompts[chosen])
    return _changed(protocol, changes) if changes else protocol


def _changed(protocol: Protocol, changes: Mapping[str, str]) -> Protocol:
    """The protocol with parts replaced, all at once, since one may only make sense with another."""
    parts: dict[str, Any] = {}
    for key, text in changes.items():
        if key in ("operations.names", "operations.syntax"):
            allow_own(text.split(","))
        owner, _, name = key.rpartition(".")
        holder = getattr(protocol, owner, None) if owner else protocol
        kinds = _kinds(holder) if dataclasses.is_dataclass(holder) else {}
        if name not in kinds or key == "name":
            known = [part for part in _part_names(protocol) if part != "name"]
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"a protocol has no part {shown(key)}; {hint}")
        parts.setdefault(owner, {})[name] = _value(key, kinds[name], text)
    inner = {owner: dataclasses.replace(getattr(protocol, owner), **new) for owner, new in parts.items() if owner}
    return dataclasses.replace(protocol, **parts.get("", {}), **inner)


def _kinds(holder: Any) -> dict[str, str]:
    """The types, as they are written, of those fields that a text can set."""
    return {field.name: field.type for field in dataclasses.fields(holder) if field.type in _READ}


def _part_names(protocol: Protocol) -> list[str]:
    names = [NAMED_BY]
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        inner = _kinds(value) if dataclasses.is_dataclass(value) else {}
        if inner or field.type in _READ:
            names += [f"{field.name}.{name}" for name in inner] or [field.name]
    return names


def _read_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _read_pair(text: str) -> tuple[int, int]:
    least, most = text.split(",")
    return int(least), int(most)


_READ: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": _read_bool,
    "int | None": lambda text: None if text.lower() == "none" else int(text),
    "tuple[str, ...]": lambda text: tuple(text.split(",")),
    "tuple[int, int]": _read_pair,
}
_SAYS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "int | None": "a whole number or none",
    "tuple[int, int]": "LEAST,MOST in tokens, such as 256,8000",
}


def _value(key: str, kind: str, text: str) -> Any:
    try:
        return _READ[kind](text)
    except (ValueError, LookupError):
        raise UserError(f"{key} is {_SAYS[kind]}, not {shown(text)}") from None
