"""A run whose every path is in an object store ends where one on a disk does, also when it was interrupted."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pixel_reasoner_jax.commands.convert import convert
from pixel_reasoner_jax.commands.export import export
from pixel_reasoner_jax.files import as_path, fetch, upload
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training import rl, sft
from tests.training.interruption import interrupted


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_run_convert_export(phase, request, uninterrupted, luck_pays, monkeypatch, bucket, tmp_path):
    whole = uninterrupted(phase)
    monkeypatch.chdir(tmp_path)
    config, run = request.getfixturevalue(f"{phase}_config"), {"sft": sft.run, "rl": rl.run}[phase]
    for section, key, name in (("model", "directory", "model"), ("data", "path", "data")):
        upload(as_path(config[section][key]), as_path(f"{bucket}/{name}"))
        config[section][key] = f"{bucket}/{name}"
    config.workdir = f"{bucket}/runs/a"
    interrupted(monkeypatch, run, config, after=3)  # the checkpoint is step 2's
    shutil.rmtree(tmp_path / "home", ignore_errors=True)  # another machine goes on
    trained = run(config, resume=True)
    assert str(trained) == f"{bucket}/runs/a/model"
    _same_weights(whole, fetch(trained))
    assert [line["step"] for line in read_metrics(f"{bucket}/runs/a")] == [1, 2, 3, 4]
    assert PolicySettings.load(fetch(trained)) == PolicySettings.load(whole)

    convert(trained, f"{bucket}/converted")
    for source, out in ((f"{bucket}/converted", f"{bucket}/exported"), (f"{bucket}/runs/a", f"{bucket}/of_run")):
        export(source, out)
        _same_weights(whole, fetch(out))
        assert PolicySettings.load(fetch(out)) == PolicySettings.load(whole)
    assert not list(tmp_path.glob("gs:*"))  # nothing took gs:// for a folder here


def _same_weights(expected, actual):
    tensors, others = (load_file(directory / "model.safetensors") for directory in (expected, actual))
    assert tensors.keys() == others.keys()
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], others[name], err_msg=name)
