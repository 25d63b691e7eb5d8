"""What options repeat of the modules that run is what those say, and declaring them imports none of those."""

from __future__ import annotations

import argparse
import inspect
import pathlib
import subprocess
import sys

import pytest

from data_pipeline.exchange import loss_masks
from data_pipeline.sources import SOURCE_KINDS
from pixel_reasoner_jax.commands import data_options, options
from pixel_reasoner_jax.endpoint import EndpointSettings
from pixel_reasoner_jax.evaluation.benchmarks import BENCHMARKS
from pixel_reasoner_jax.evaluation.protocol import PROTOCOLS
from pixel_reasoner_jax.models import Config
from pixel_reasoner_jax.plan import chips


def test_names_and_defaults_are_those_of_the_modules_that_run():
    assert list(data_options.SOURCES) == list(SOURCE_KINDS)
    assert tuple(data_options.MASKS) == loss_masks.LOSS_MASK_RULES
    assert options.CHIPS == chips.EXAMPLES
    assert all(Config.preset(name) for name in options.PRESETS)
    assert list(options.BENCHMARKS) == list(BENCHMARKS) and list(options.PROTOCOLS) == list(PROTOCOLS)
    settings = EndpointSettings("gpt-4o")
    assert pathlib.Path(data_options.CAPTIONS).expanduser() == settings.cache
    parser = argparse.ArgumentParser()
    data_options.synthesize(parser)
    args = parser.parse_args(["--source", "table:x", "--count", "1", "--out", "y"])
    assert args.caption_model == settings.model
    for name in ("temperature", "max_tokens", "timeout", "attempts", "base_url", "requests_per_minute", "budget"):
        assert getattr(args, name) == getattr(settings, name)
    assert args.prices == (settings.prompt_price, settings.completion_price)


@pytest.mark.parametrize("declare, needed", [(options.evaluate, []), (options.generate, ["--question", "?"])])
def test_parameters_are_loaded_as_they_are_stored(declare, needed):
    parser = argparse.ArgumentParser()
    declare(parser)
    assert parser.parse_args(["--model", "x", *needed]).dtype == "auto"


def test_declaring_options_imports_nothing_heavy():
    program = (
        "import contextlib, io, sys; from pixel_reasoner_jax.commands import cli\n"
        "for name in cli.COMMANDS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        cli.main([name, '--help'])\n"
        "heavy = {'jax', 'numpy', 'PIL', 'transformers', 'rich'}\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & heavy)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_function_declares_the_options_of_a_command():
    members = [one for module in (options, data_options) for one in inspect.getmembers(module, inspect.isfunction)]
    functions = [f for _, f in members if f.__module__ in (options.__name__, data_options.__name__)]
    for function in functions:
        if list(inspect.signature(function).parameters) == ["parser"]:
            parser = argparse.ArgumentParser()
            function(parser)
            assert parser.format_help()
