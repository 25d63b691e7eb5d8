"""reproduce.sh: what a dry run prints, what is skipped, where it goes on; and once all stages, with a tiny model."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from tests.launch.conftest import REPOSITORY
from tests.launch.test_tpu_run import SETTINGS

TPU = {**SETTINGS, "GS_DIR": "gs://b/x"}
BENCHMARKS = {"vstar": "VStar", "tallyqa": "TallyQA", "infovqa": "InfoVQA", "mvbench": "MVBench"}


def lines(result):
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_dry_run_on_gpus_prints_every_command(machine):
    printed = lines(machine.launch("reproduce.sh", "--dry-run", "gpu", "--rl.train.steps=3", "--slots=8"))
    titles = [line for line in printed if line.startswith("#")]
    assert [title.split(";")[0] for title in titles] == ["# download", "# sft", "# rl", "# evaluate"]
    commands = [shlex.split(line) for line in printed if not line.startswith("#")]
    assert commands[0] == [
        *[".venv/bin/hf", "download", "Qwen/Qwen2.5-VL-7B-Instruct", "--local-dir"],
        "./checkpoints/Qwen2.5-VL-7B-Instruct",
    ]
    downloaded = [command[4] for command in commands if command[1:3] == ["download", "--repo-type"]]
    assert downloaded == [
        "TIGER-Lab/PixelReasoner-SFT-Data",
        "TIGER-Lab/PixelReasoner-RL-Data",
        *(f"JasperHaozhe/{name}-EvalData-PixelReasoner" for name in BENCHMARKS.values()),
    ]
    imported = [command[2:] for command in commands if "import-data" in command]
    assert [command[0] for command in imported] == [
        "./data/released/sft/release.json",
        "./data/released/rl/release.parquet",
    ]
    sft, rl, evaluate = commands[-3:]
    assert sft == [
        *[".venv/bin/pixel-reasoner", "sft", "--config", "configs/sft_qwen2_5_vl_7b.py"],
        "--config.workdir=./runs/sft_qwen2_5_vl_7b",
        "--config.model.directory=./checkpoints/Qwen2.5-VL-7B-Instruct",
        "--config.data.path=./data/pixel_reasoner_warm_start",
        "--resume",
    ]
    assert rl[1] == "rl" and "--config.model.directory=./runs/sft_qwen2_5_vl_7b/model" in rl
    assert rl[-2:] == ["--config.train.steps=3", "--resume"] and "--config.train.steps=3" not in sft
    assert evaluate[1:4] == ["evaluate", "--model", "./runs/rl_qwen2_5_vl_7b/model"]
    on = [word for before, word in zip(evaluate, evaluate[1:], strict=False) if before == "--on"]
    assert on == [f"{name}:./data/released/{name}" for name in BENCHMARKS]
    assert evaluate[-6:] == ["--slots", "8", "--max-length", "24576", "--out", "./runs/evaluation"]
    assert machine.commands == [] and not (machine.root / "runs").exists()


def test_a_dry_run_on_a_slice_goes_through_the_bucket(machine):
    printed = lines(machine.launch("reproduce.sh", "--dry-run", "tpu", **TPU))
    commands = [shlex.split(line) for line in printed if not line.startswith("#")]
    copied = [command[-2:] for command in commands if command[0] == "gcloud"]
    assert copied[0] == ["./checkpoints/Qwen2.5-VL-7B-Instruct", "gs://b/x/checkpoints/"]
    assert copied[1] == ["./data/pixel_reasoner_warm_start", "gs://b/x/data/"] and len(copied) == 3 + len(BENCHMARKS)
    sft, rl, evaluate = commands[-3:]
    assert sft[:3] == ["launch/tpu_run.sh", "resume", "configs/sft_qwen2_5_vl_7b.py"]
    assert "--config.model.directory=gs://b/x/runs/sft_qwen2_5_vl_7b/model" in rl
    assert evaluate[:4] == ["launch/tpu_run.sh", "evaluate", "--model", "gs://b/x/runs/rl_qwen2_5_vl_7b/model"]
    assert "tallyqa:gs://b/x/data/released/tallyqa" in evaluate
    # What it calls is what tpu_run.sh takes.
    dry = machine.launch("tpu_run.sh", "--dry-run", *evaluate[1:], **TPU)
    assert dry.returncode == 0, dry.stderr
    assert (
        "pixel-reasoner" not in dry.stdout and "worker.sh start evaluate --distributed --model gs://b/x" in dry.stdout
    )
    assert "--resume" not in dry.stdout


def test_the_figures_are_those_of_plan(machine):
    printed = lines(machine.launch("reproduce.sh", "--dry-run", "gpu", "sft", "rl"))
    sft, rl = (line for line in printed if line.startswith("#"))
    scaling = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
    part = scaling[scaling.index("| 7B, v5p 16, fsdp=16 |") :]
    rows = {row.split("|")[2].strip(): [cell.strip() for cell in row.split("|")] for row in part.splitlines()[:6]}

    def figures(phase):
        return {"memory": rows[phase][4], "of": rows[phase][5], "seconds": rows[phase][9], "tokens": rows[phase][3]}

    for line, phase in ((sft, "sft_update"), (rl, "grpo_update")):
        found = figures(phase)
        assert f"16 chips): {found['memory']} of {found['of']} GiB a chip" in line
        assert f"an update of {found['tokens']} tokens at least {found['seconds']}" in line
    assert f"32 tokens of 64 responses at least {figures('decode')['seconds']}" in rl


@pytest.fixture
def installed(machine):
    """As `setup` leaves it, with commands that are recorded; `breaks` holds a word whose command fails."""
    folder = machine.root / ".venv" / "bin"
    folder.mkdir(parents=True)
    body = """
status="$(cat "$CLOUD/breaks" 2>/dev/null || true)"
[[ -z "$status" || "$*" != *${status% *}* ]] || exit ${status#* }
"""
    for name in ("hf", "python", "pixel-reasoner"):
        machine.stand_in(name, body)
        (folder / name).symlink_to(machine.bin / name)
    return machine


def called(machine):
    """The recorded commands, without the checks of settings."""
    return [command for command in machine.commands if "--check" not in command and "-c" not in command]


def test_what_is_done_is_skipped_and_what_broke_goes_on(installed):
    (installed.cloud / "breaks").write_text("/tallyqa/images.zip 1")
    result = installed.launch("reproduce.sh", "gpu")
    assert result.returncode == 2
    assert "unpack-tallyqa-images failed (status 1); mend that, and the same command goes on" in result.stderr
    before = called(installed)
    assert before[-1][:3] == ["python", "-m", "zipfile"]
    (installed.cloud / "breaks").write_text("rl 75")
    result = installed.launch("reproduce.sh", "gpu")
    assert result.returncode == 75 and "rl was stopped and goes on where it was" in result.stderr
    after = called(installed)[len(before) :]
    assert after[0] == before[-1] and [command[1] for command in after[-2:]] == ["sft", "rl"]
    (installed.cloud / "breaks").unlink()
    result = installed.launch("reproduce.sh", "gpu")
    assert result.returncode == 0 and "the figures come to ./runs/evaluation/results.json" in result.stderr
    assert [command[1] for command in called(installed)[-2:]] == ["rl", "evaluate"]
    count = len(called(installed))
    result = installed.launch("reproduce.sh", "gpu")
    assert result.returncode == 0 and "evaluate is done" in result.stderr and len(called(installed)) == count
    result = installed.launch("reproduce.sh", "gpu", "rl", "--rl.seed=1")
    assert result.returncode == 2 and "rl was done by another command: .venv/bin/pixel-reasoner rl" in result.stderr
    assert lines(installed.launch("reproduce.sh", "--dry-run", "gpu", "sft"))[1:] == []  # it is done


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "launch/reproduce.sh [--dry-run]"),
        (["--dry-run"], "MACHINE is missing: gpu or tpu"),
        (["gpu"], "nothing is installed: launch/gpu_run.sh setup"),
        (["gpu", "train"], "train is no machine (gpu, tpu) and no stage (download, sft, rl, evaluate)"),
        (["gpu", "--config.seed=1"], "--config.seed=1: whose? --sft.seed=1 or --rl.seed=1"),
        (["gpu", "--step=1"], "unknown flag --step=1"),
        (["gpu", "--slots=many"], "SLOTS is many: it must be a positive number"),
        (["gpu", "--rl-config=rl_none"], "there is no rl_none"),
        (["gpu", "--rl-config=sft_qwen2_5_vl_7b"], "SFT_CONFIG is a config of sft, RL_CONFIG of rl"),
        (["tpu"], "GS_DIR is not set: it must be gs://BUCKET"),
    ],
)
def test_mistakes(machine, arguments, message):
    result = machine.launch("reproduce.sh", *arguments)
    assert result.returncode == 2 and message in result.stderr and machine.commands == []


def test_a_wrong_setting_is_refused_before_anything_is_downloaded(installed):
    (installed.root / "pixel_reasoner_jax").symlink_to(REPOSITORY / "pixel_reasoner_jax")
    python = installed.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = installed.launch("reproduce.sh", "gpu", "--rl.curiosity.alpa=1")
    assert result.returncode == 2 and "did you mean config.curiosity.alpha?" in result.stderr
    assert called(installed) == []


def test_an_evaluation_on_a_slice(machine):
    for command in ("create", "setup"):
        assert machine.launch("tpu_run.sh", command, **TPU).returncode == 0
    arguments = ["--model", "gs://b/m", "--on", "vstar:gs://b/v", "--out", "gs://b/it's out"]
    result = machine.launch("tpu_run.sh", "evaluate", *arguments, **TPU)
    assert result.returncode == 0, result.stderr
    started = [command for command in machine.commands if command[0] == "pixel-reasoner"]
    assert started == [["pixel-reasoner", "evaluate", "--distributed", *arguments]] * 2
    result = machine.launch("tpu_run.sh", "evaluate", **TPU)
    assert result.returncode == 2 and "ARGUMENT is missing" in result.stderr


# ---- All stages ----

HF = """
    import json, pathlib, shutil, sys
    arguments = sys.argv[1:]
    names = [word for word in arguments[1:] if "/" in word]
    source = pathlib.Path({made!r}) / names[0].replace("/", "--")
    shutil.copytree(source, arguments[arguments.index("--local-dir") + 1], dirs_exist_ok=True)
"""
COMMAND = """
    import sys
    import pytest
    from pixel_reasoner_jax.commands import cli
    from tests.training.conftest import let_luck_pay
    let_luck_pay(pytest.MonkeyPatch())  # a random model earns nothing
    sys.exit(cli.main())
"""
MAKE = """
    import pathlib, shutil, sys
    from data_pipeline import lessons
    from data_pipeline.exchange.exporting import export_table
    from data_pipeline.records import write_records
    from data_pipeline.sources.pixel_search import PixelSearch
    from pixel_reasoner_jax.commands.quickstart import make_initial_model
    from pixel_reasoner_jax.config import load_config
    from pixel_reasoner_jax.processing import Processor
    from pixel_reasoner_jax.rollout.settings import PolicySettings
    from tests.evaluation.forms import image_bytes, write_parquet

    made = pathlib.Path(sys.argv[1])
    model = made / "Qwen--Qwen2.5-VL-7B-Instruct"
    make_initial_model(load_config("quickstart"), model)
    write = lessons.warm_start(PolicySettings.load(model).registry(), Processor.from_pretrained(model))
    kinds = {
        "SFT": ("trajectory", list(map(write, PixelSearch(24, "sft"))), "release.jsonl"),
        "RL": ("query", [seed.query() for seed in PixelSearch(8, "rl")], "release.parquet"),
    }
    for name, (kind, records, table) in kinds.items():
        folder = made / f"TIGER-Lab--PixelReasoner-{name}-Data"
        folder.mkdir()
        write_records(made / name, kind, records)
        export_table(made / name, folder / table)
        media = folder / f"{pathlib.Path(table).stem}_media"
        for archive in ("images", "videos"):  # the paths in the table are those in the archives
            shutil.make_archive(folder / archive, "zip", folder, media.name)
        shutil.rmtree(media)
    for name in ("VStar", "TallyQA", "InfoVQA", "MVBench"):
        folder = made / f"JasperHaozhe--{name}-EvalData-PixelReasoner"
        (folder / "images").mkdir(parents=True)
        rows = []
        for n in range(3):
            (folder / "images" / f"{n}.png").write_bytes(image_bytes(n, (56, 56)))
            question = "Which? (A) one (B) two" if name in ("VStar", "MVBench") else "How many?"
            answer = "A" if name in ("VStar", "MVBench") else str(n)
            rows.append({"question": question, "answer": answer, "image": [f"images/{n}.png"], "qid": f"{name}-{n}"})
        write_parquet(folder / f"{name.lower()}.parquet", rows)
        shutil.make_archive(folder / "images", "zip", folder, "images")
        shutil.rmtree(folder / "images")
"""
TINY = [
    *("model.dtype=float32", "model.remat=none", "processor.image=(4, 64)", "processor.crop=(4, 64)"),
    *("operations.padding=0.0", "optimizer.learning_rate=1e-3", "train.row_length=384", "train.micro_batch_rows=2"),
    *("train.checkpoint_every=2", "train.steps=2", "train.batch_size=6", "train.freeze_vision=False"),
]
TINY_RL = [
    *("rollout.samples=4", "rollout.max_operations=2", "rollout.max_response_tokens=96", "rollout.max_length=192"),
    *("rollout.slots=8", "grpo.queries_per_episode=2", "train.batch_size=8"),
]


def program(text, **fields):
    return textwrap.dedent(text.format(**fields) if fields else text)


@pytest.mark.slow
def test_all_stages_with_a_tiny_model(machine, tmp_path):
    """From downloads, which a stand-in serves from data made here, to the figures; broken off once, it goes on."""
    made, folder = tmp_path / "made", machine.root / ".venv" / "bin"
    made.mkdir()
    folder.mkdir(parents=True)
    (machine.root / "pixel_reasoner_jax").symlink_to(REPOSITORY / "pixel_reasoner_jax")
    environment = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "HOME": str(pathlib.Path.home())}
    run = [sys.executable, "-c", program(MAKE), str(made)]
    subprocess.run(run, env={**machine.environment, **environment}, check=True)
    for name, text in (("hf", program(HF, made=str(made))), ("pixel-reasoner", program(COMMAND))):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in folder.iterdir():
        file.chmod(0o755)
    settings = [f"--{phase}.{setting}" for phase in ("sft", "rl") for setting in TINY]
    settings += [f"--rl.{setting}" for setting in TINY_RL] + ["--sft.data.workers=0"]
    options = ["--sft-table=release.jsonl", "--dtype=float32", "--slots=4", "--max-length=1024"]
    arguments = ["reproduce.sh", "gpu", *settings, *options]
    for stages in (["download", "sft"], []):
        result = machine.launch(*arguments, *stages, **environment)
        assert result.returncode == 0, result.stderr[-3000:]
    assert "sft is done" in result.stderr and (machine.root / "runs/rl_qwen2_5_vl_7b/model/config.json").exists()
    results = (machine.root / "runs/evaluation/results.json").read_text()
    assert [len(re.findall(f'"{name}": {{', results)) > 0 for name in BENCHMARKS] == [True] * 4
    result = machine.launch(*arguments, **environment)
    assert result.returncode == 0 and "evaluate is done" in result.stderr
