"""The GKE manifest: what can be held against the program and against itself without a cluster."""

from __future__ import annotations

import math
import pathlib

import yaml

from pixel_reasoner_jax.commands.cli import COMMANDS
from pixel_reasoner_jax.config import load_config

MANIFEST = pathlib.Path(__file__).parents[2] / "launch" / "gke_tpu.yaml"


def test_manifest():
    jobset = yaml.safe_load(MANIFEST.read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 60 and jobset["spec"]["failurePolicy"]["maxRestarts"] > 1
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container["resources"]["limits"]["google.com/tpu"] * job["parallelism"]
    assert math.prod(map(int, topology.split("x"))) == chips and job["completions"] == job["parallelism"]
    command, joined, flag, config, *overrides, resume = container["args"]
    assert (joined, flag, resume) == ("--distributed", "--config", "--resume") and COMMANDS[command].resumes
    pairs = [override.removeprefix("--config.").split("=") for override in overrides]
    assert (
        load_config(config, pairs, COMMANDS[command].reference).workdir
        == "gs://BUCKET/pixel_reasoner/runs/rl_qwen2_5_vl_7b"
    )
