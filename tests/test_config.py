from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax import config as configuration
from pixel_reasoner_jax import config_values, packaged_configs
from pixel_reasoner_jax.config import (
    ConfigError,
    check_values,
    config_names,
    load_config,
    variant,
)
from pixel_reasoner_jax.models import model

RL = "configs/rl_qwen2_5_vl_7b.py"


def test_paper_hyperparameters():
    config = load_config(RL)
    assert (config.optimizer.learning_rate, config.optimizer.warmup_fraction) == (1e-6, 0.03)
    assert (config.rollout.samples, config.grpo.queries_per_episode, config.train.batch_size) == (8, 512, 256)
    reward = config.curiosity
    assert (reward.alpha, reward.beta, reward.rate_floor, reward.max_operations) == (0.5, 0.05, 0.3, 1)
    config = load_config("sft_qwen2_5_vl_3b")
    assert (config.optimizer.learning_rate, config.optimizer.warmup_fraction) == (1e-6, 0.1)
    assert (config.train.batch_size, config.optimizer.schedule) == (128, "cosine")
    release = load_config("rl_release_7b", reference="rl_qwen2_5_vl_7b")
    assert release.curiosity.variant == "release" and release.rollout.later_temperature == 0.9
    assert not release.train.freeze_vision  # that is the release's instruction tuning


@pytest.mark.parametrize("name", config_names())
def test_every_config_has_the_keys_of_its_reference(name):
    kind = "rl" if name.startswith("recipes/") else name.split("_")[0]
    reference = name if kind == "quickstart" else f"{kind}_qwen2_5_vl_7b"
    loaded = lambda config: json.loads(config.to_json_best_effort())  # noqa: E731
    assert loaded(load_config(name)).keys() == loaded(load_config(reference)).keys()
    assert loaded(load_config(name, reference=reference)) == loaded(load_config(name))


@pytest.mark.parametrize(
    "name,differences",
    [
        ("rl_qwen2_5_vl_3b", {"model.directory": "runs/sft_qwen2_5_vl_3b/model"}),
        (
            "rl_release_7b",
            {
                "operations.release": True,
                "rollout.later_temperature": 0.9,
                "rewards.rules": "release",
                "curiosity.variant": "release",
                "replay.alpha": 0.0,
            },
        ),
        ("sft_qwen2_5_vl_3b", {"model.directory": "checkpoints/Qwen2.5-VL-3B-Instruct"}),
    ],
)
def test_variants_differ_from_their_reference_in_these_keys(name, differences):
    base = load_config(f"{name.split('_')[0]}_qwen2_5_vl_7b")
    found = differing(base, load_config(name))
    assert found == {"workdir": f"runs/{name}", **differences}
    assert all(type(value) is type(found[path]) for path, value in differences.items())


def differing(before, after, prefix=""):
    """The leaves of `after` that are not those of `before`, by dotted key; both have the same keys in one order."""
    assert list(before) == list(after)
    result = {}
    for key in after:
        if hasattr(after[key], "items"):
            result |= differing(before[key], after[key], f"{prefix}{key}.")
        elif (before[key], type(before[key])) != (after[key], type(after[key])):
            result[prefix + key] = after[key]
    return result


@pytest.mark.parametrize("name", config_names())
def test_every_config_says_what_it_takes_and_gives(name):
    text = (packaged_configs.CONFIGS / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    for word in ("Command: ", "Hardware: ", "Time", "esult: "):
        assert word in text, word


def test_overrides_take_the_type_of_the_key():
    config = load_config(
        RL,
        [
            ("optimizer.learning_rate", "2"),
            ("optimizer.schedule", "linear"),
            ("train.steps", "7"),
            ("train.freeze_vision", "true"),
            ("lora.targets", "query,value"),
            ("lora.targets", "up"),
            ("processor.image", "(4, 64)"),
            ("processor.crop", "[4, 32]"),
            ("model.directory", "1"),
        ],
    )
    assert config.optimizer.learning_rate == 2.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.optimizer.schedule == "linear" and config.train.steps == 7 and config.train.freeze_vision is True
    assert config.processor.image == (4, 64) and config.processor.crop == (4, 32)
    assert config.model.directory == "1"
    assert config.lora.targets == ("up",)


def test_a_budget_may_be_left_to_the_model_in_any_config():
    """And keeps its type: another override is checked as before."""
    config = load_config(RL, [("processor.image", "None"), ("processor.video_frames", "none")])
    assert config.processor.image is None and config.processor.video_frames is None
    assert variant("rl_qwen2_5_vl_7b", {"processor.image": None, "workdir": "x"}).processor.image is None
    again = load_config(RL, [("processor.image", "None"), ("processor.image", "(4, 9)")])
    assert again.processor.image == (4, 9)
    for value, message in (
        ("64", "must be tuple or None, got 64"),
        ("('a', 2)", "must be two whole numbers of tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(RL, [("processor.image", "None"), ("processor.image", value)])


@pytest.mark.parametrize(
    "key,value,message",
    [
        (
            "optimizer.learnig_rate",
            "1",
            "unknown key config.optimizer.learnig_rate; did you mean config.optimizer.lear",
        ),
        ("optimiser.learning_rate", "1", "unknown key config.optimiser; did you mean config.optimizer?"),
        ("learning_rate", "1", "unknown key config.learning_rate; did you mean config.optimizer.learning_rate?"),
        ("grpo.xyzzy", "1", "known: "),
        ("optimizer", "1", "config.optimizer is a section; it has b1, "),
        ("seed.a", "1", "config.seed is a value and has no keys: set it itself"),
        ("", "1", "unknown key config."),
        ("seed", "1.5", "config.seed must be int, got 1.5"),
        ("seed", "one", "config.seed must be int, got 'one'"),
        ("optimizer.clip_norm", "None", "config.optimizer.clip_norm must be float, got None"),
        ("train.steps", "many", "config.train.steps must be int or None, got 'many'"),
        ("train.freeze_vision", "1", "config.train.freeze_vision must be bool, got 1"),
        ("processor.image", "64", "config.processor.image must be tuple or None, got 64"),
        ("processor.image", "(1,2,3)", "must be two integers, like (4, 2000), got (1, 2, 3)"),
        ("processor.image", "('a', 2)", "must be two integers, like (4, 2000), got ('a', 2)"),
        ("data.mixture", "(('data/a', 'b'),)", "must be pairs of a path and a weight greater than 0"),
        ("data.pass_rates", "(0.5,)", "config.data.pass_rates is (0.5,): it must be (least, most), between 0 and 1"),
        ("data.pass_rates", "('a', 'b')", "it must be (least, most), between 0 and 1"),
        ("lora.targets", "([1],)", "must be out of query, key, value, out, gate, up, down"),
        ("optimizer.learning_rate", "-1", "config.optimizer.learning_rate is -1.0: it must be greater than 0"),
        ("optimizer.schedule", "cosin", "config.optimizer.schedule is 'cosin': it must be one of 'cosine', "),
        ("lora.targets", "query,q_proj", "must be out of query, key, value, out, gate, up, down"),
        ("curiosity.variant", "papre", "must be one of 'paper', 'release'"),
        ("rollout.samples", "1", "at least 2"),
        ("rollout.slots", "-1", "config.rollout.slots is -1: it must be 0 or greater"),
        ("model.remat", "ful", "must be one of 'none', 'vision', 'dots', 'full', 'groups'"),
        ("operations.padding", "1.5", "config.operations.padding is 1.5: it must be between 0 and 1"),
        ("processor.image", "(9, 4)", "config.processor.image is (9, 4): it must be two whole numbers of tokens"),
        ("processor.video_frames", "0", "config.processor.video_frames is 0: it must be greater than 0"),
    ],
)
def test_override_errors_name_the_key_and_what_to_do(key, value, message):
    with pytest.raises(ConfigError) as error:
        load_config(RL, [(key, value)])
    assert message in str(error.value)


@pytest.mark.parametrize(
    "key,value,wanted",
    [
        ("data.pass_rates", "()", "it must be (least, most), between 0 and 1"),
        ("data.pass_rates", "(0, 0.5, 1)", "it must be (least, most), between 0 and 1"),
        ("data.pass_rates", "(False, True)", "it must be (least, most), between 0 and 1"),
        ("data.pass_rates", "(0.8, 0.2)", "it must be (least, most), between 0 and 1"),
        ("data.mixture", "(('data/a', '3'),)", "it must be pairs of a path and a weight greater than 0"),
        ("data.mixture", "('data/a', 3)", "it must be pairs of a path and a weight greater than 0"),
        ("data.mixture", "(('data/a', 1e400),)", "no number may be infinite or NaN"),
        ("data.path", "", "it must be a text that is not empty"),
        ("optimizer.b1", "1.5", "it must be 0 or greater and less than 1"),
        ("optimizer.b2", "1", "it must be 0 or greater and less than 1"),
        ("optimizer.learning_rate", "1e400", "no number may be infinite or NaN"),
        ("rollout.temperature", "-1", "it must be greater than 0"),
        ("rollout.max_length", "0", "it must be greater than 0"),
        ("rollout.max_images", "-1", "it must be 0 or greater"),
        ("train.batch_size", "0", "it must be greater than 0"),
        (
            "processor.image",
            "(9, 4)",
            "it must be two whole numbers of tokens, (least, most), the first greater than 0 and not larger",
        ),
        ("processor.video_frames", "0", "it must be greater than 0"),
        ("mesh.fsdp", "-2", "it must be greater than 0, or -1 for the devices that are left"),
        ("mesh.data", "0", "it must be greater than 0, or -1 for the devices that are left"),
        ("grpo.correction_bounds", "(2.0, 0.5)", "0 or greater, the first not larger, the second greater than 0"),
        ("grpo.correction_bounds", "(0, 0)", "0 or greater, the first not larger, the second greater than 0"),
        (
            "curiosity.alpha_bounds",
            "(1, 0)",
            "it must be (least, most), numbers that are 0 or greater, the first not larger",
        ),
        ("auxiliary.clip_cov_bounds", "(1, 1)", "(least, most), numbers that are 0 or greater, the first smaller"),
        ("auxiliary.kl_cov_fraction", "0.0", "it must be greater than 0 and at most 1"),
        ("seed", "5000000000", "it must be 0 or greater and less than 2147483648"),
        ("operations.names", "rotate_image,zoom", "video_com_zoom, or module:name of your own"),
        ("operations.syntax", "xml", "'assignment', or module:function of your own"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(key, value, wanted):
    with pytest.raises(ConfigError) as error:
        load_config(RL, [(key, value)])
    assert str(error.value).startswith(f"config.{key} is ") and str(error.value).endswith(wanted)


@pytest.mark.parametrize("name", ["rl_qwen2_5_vl_7b", "sft_qwen2_5_vl_7b", "quickstart"])
def test_every_setting_has_a_rule(name):
    """No number may be NaN, infinite or far below zero, and no text empty, whichever setting it is."""
    for path, _ in configuration.leaves(load_config(name)):
        section, key = configuration.locate(load_config(name), path)
        kind = section.get_type(key)
        wrong = {bool: (), int: (-5,), float: (float("nan"), float("inf"), -5.0), str: ("",), tuple: (("?",),)}[kind]
        if path.endswith("train.steps"):
            wrong = (0, -1)
        if name == "quickstart" and path == "title":
            continue
        for one in wrong:
            config = load_config(name)
            section, key = configuration.locate(config, path)
            section[key] = one
            with pytest.raises(ConfigError, match=rf"config\.{path} is "):
                check_values(config)


def test_operations_are_named_on_the_command_line():
    config = load_config(RL, [("operations.names", "zoom_image,my_module:Look"), ("operations.syntax", "action")])
    assert config.operations.names == ("zoom_image", "my_module:Look") and config.operations.syntax == "action"
    assert load_config(RL, [("operations.names", "zoom_image")]).operations.names == ("zoom_image",)
    assert load_config(RL, [("operations.names", "none")]).operations.names is None


def test_what_may_be_left_open_may_be_left_open_again(tmp_path):
    """Also where the config, or the one that it is a variant of, gives it a value."""
    base = write(tmp_path, "return variant('rl_qwen2_5_vl_7b', {'train.steps': 5, 'model.position_rule': 'released'})")
    opened = [("train.steps", "None"), ("model.position_rule", "none")]
    config = load_config(base, opened, "rl_qwen2_5_vl_7b")
    assert config.train.steps is None and config.model.position_rule is None
    config = load_config(base, [*opened, ("train.steps", "7"), ("model.position_rule", "transformers")])
    assert (config.train.steps, config.model.position_rule) == (7, "transformers")
    again = write(tmp_path, f"return variant({str(base)!r}, {{'train.steps': None}})", "again.py")
    assert load_config(again, reference="rl_qwen2_5_vl_7b").train.steps is None
    assert load_config("quickstart", [("rl.train.steps", "None")]).rl.train.steps is None
    for name in ("rl_qwen2_5_vl_7b", "sft_qwen2_5_vl_7b", "quickstart"):
        config = load_config(name)
        assert all(configuration._is_optional(path) for path, value in configuration.leaves(config) if value is None)


@pytest.mark.parametrize(
    "key,hint",
    [
        (
            "optimizer.learning_rate",
            "did you mean config.pretraining.optimizer.learning_rate or config.rl.optimizer.learning_rate or"
            " config.warm_start.optimizer.learning_rate?",
        ),
        ("curiosity.alpha", "did you mean config.rl.curiosity.alpha?"),
        ("rl.alpha", "did you mean config.rl.curiosity.alpha or config.rl.replay.alpha?"),
        ("pretraining.curiosity.alpha", "did you mean config.rl.curiosity.alpha?"),
    ],
)
def test_a_key_without_its_section_names_where_it_is(key, hint):
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", [(key, "1")])
    assert hint in str(error.value)


@pytest.mark.parametrize(
    "key,value",
    [
        ("pretraining.lessons", "0"),
        ("warm_start.trajectories", "0"),
        ("warm_start.lessons", "-1"),
        ("warm_start.misplaced", "2.0"),
        ("rl.queries", "0"),
        ("evaluation.queries", "0"),
        ("evaluation.samples", "0"),
        ("evaluation.slots", "0"),
        ("evaluation.temperature", "-1"),
    ],
)
def test_sizes_of_the_quickstart_are_checked_before_it_trains(key, value):
    with pytest.raises(ConfigError, match=f"config.{key} is {value}"):
        load_config("quickstart", [(key, value)])


def test_remat_policies_are_those_of_the_model():
    assert set(config_values.REMAT) == set(model.REMAT)


def write(directory, body, name="mine.py"):
    imports = "import pathlib\nfrom ml_collections import ConfigDict\nfrom pixel_reasoner_jax.config import variant"
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{imports}\n\n\ndef get_config():\n    {body}\n")
    return file


def test_a_file_of_ones_own_is_completed_by_the_reference(tmp_path):
    sections = "rollout={}, curiosity=dict(alpha=1), grpo={}"
    file = write(tmp_path, f"return ConfigDict(dict(optimizer=dict(learning_rate=1), data=dict(path='x'), {sections}))")
    config = load_config(file, reference="rl_qwen2_5_vl_7b")
    assert config.optimizer.learning_rate == 1.0 and config.data.path == "x" and config.rollout.samples == 8


@pytest.mark.parametrize(
    "body,message",
    [
        ("return ConfigDict(dict(optimizer=dict(learnrate=1)))", "did you mean config.optimizer.learning_rate?"),
        ("return ConfigDict(dict(optimizer=1))", "config.optimizer must be a section with b1, b2, "),
        ("return ConfigDict(dict(seed=dict(a=1)))", "config.seed must be a single value like 0"),
        ("return ConfigDict(dict(seed='0'))", "config.seed must be int, got '0'"),
        ("return {}", "must return a ConfigDict, not dict"),
        ("return 1 / 0", "cannot be read: ZeroDivisionError"),
        ("return ConfigDict(dict(train=dict(steps=0)))", "config.train.steps is 0"),
        (
            "return variant('sft_qwen2_5_vl_7b', {'optimizer.learnrate': 1.0})",
            "mine.py: unknown key config.optimizer.learnrate; did you mean config.optimizer.learning_rate?",
        ),
        (
            "c = variant('sft_qwen2_5_vl_7b', {}); c.optimizer.learnrate = 1.0; return c",
            "mine.py: unknown key config.optimizer.learnrate; did you mean config.optimizer.learning_rate?",
        ),
        (
            "return variant('sft_qwen2_5_vl_7b', {'learning_rate': 1.0})",
            "mine.py: unknown key config.learning_rate; did you mean config.optimizer.learning_rate?",
        ),
        (
            "return variant('sft_qwen2_5_vl_7b', {'seed': '1'})",
            "mine.py: variant of sft_qwen2_5_vl_7b: config.seed must be int, got '1'",
        ),
        (
            "return variant('sft_qwen2_5_vl_7b', {'optimizer': {}})",
            "mine.py: config.optimizer is a section; it has b1,",
        ),
        ("return variant('sft_qwen', {})", "mine.py: there is no config 'sft_qwen'; did you mean sft_qwen2_5_vl_"),
        ("return variant(__file__, {})", "mine.py calls itself without end: is it a variant of itself?"),
        ("return variant('rl_release_7b', {})", "mine.py has a section rollout, which `sft` does not know"),
    ],
)
def test_errors_in_a_file_of_ones_own(tmp_path, body, message):
    file = write(tmp_path, body)
    with pytest.raises(ConfigError) as error:
        load_config(file, reference="sft_qwen2_5_vl_7b")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name,reference,message",
    [
        (
            "sft_qwen2_5_vl_7b",
            "rl_qwen2_5_vl_7b",
            "has no section rollout, which `rl` needs: is it a config of another",
        ),
        (
            "rl_qwen2_5_vl_3b",
            "sft_qwen2_5_vl_7b",
            "a section rollout, which `sft` does not know: is it a config of `rl`",
        ),
        ("rl_qwen2_5_vl_3b", "quickstart", "a section rollout, which `quickstart` does not know"),
    ],
)
def test_a_config_of_another_command_is_refused(name, reference, message):
    with pytest.raises(ConfigError) as error:
        load_config(f"configs/{name}.py", reference=reference)
    assert f"configs/{name}.py has " in str(error.value) and message in str(error.value)


def test_a_file_without_get_config_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ConfigError, match=r"mine\.py has no get_config\(\): define one"):
        load_config(tmp_path / "mine.py")


def test_a_variant_of_a_variant_in_any_folder(tmp_path, monkeypatch):
    """Types are those of the reference, as in overrides: 2 stands for 2.0, a list for a tuple, 5 for None."""
    changes = "{'optimizer.clip_norm': 2, 'processor.image': [4, 64], 'train.steps': 5, 'seed': 1}"
    write(tmp_path / "far", f"return variant('rl_release_7b', {changes})", "base.py")
    base = "pathlib.Path(__file__).with_name('base.py')"
    file = write(tmp_path / "far", f"return variant({base}, {{'seed': 2, 'train.steps': 6}})")
    monkeypatch.chdir(tmp_path)
    found = differing(load_config("rl_release_7b"), load_config(file, reference="rl_qwen2_5_vl_7b"))
    assert found == {"optimizer.clip_norm": 2.0, "processor.image": (4, 64), "train.steps": 6, "seed": 2}
    assert type(found["optimizer.clip_norm"]) is float


def test_a_variant_leaves_its_base_as_it_was():
    variant("rl_qwen2_5_vl_7b", {"train.epochs": 9, "lora.targets": ("up",)})
    assert load_config("rl_qwen2_5_vl_7b").train.epochs == 1


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Configs as they might come with the package, and another directory to start from, which is empty."""
    configs = tmp_path / "package" / "configs"
    for number, name in enumerate(("rl_a", "recipes/rl_a", "recipes/rl_b", "tuning/sft_c")):
        write(configs, f"return ConfigDict(dict(seed={number}))", f"{name}.py")
    (configs / "recipes" / "notes.txt").write_text("")
    monkeypatch.setattr(packaged_configs, "CONFIGS", configs)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return configs


def test_configs_in_folders_have_names(packaged):
    assert config_names() == ["rl_a", "recipes/rl_a", "recipes/rl_b", "tuning/sft_c"]
    assert config_names("rl") == ["rl_a", "recipes/rl_a", "recipes/rl_b"]
    assert config_names("sft") == ["tuning/sft_c"]


@pytest.mark.parametrize(
    "path,seed",
    [
        ("rl_a", 0),
        ("rl_a.py", 0),
        ("configs/rl_a.py", 0),
        ("recipes/rl_a", 1),
        ("recipes/rl_a.py", 1),
        ("configs/recipes/rl_a.py", 1),
        ("configs/recipes/rl_b", 2),
        ("./configs/tuning/sft_c.py", 3),
    ],
)
def test_configs_are_found_by_name_from_anywhere(packaged, path, seed):
    assert load_config(path).seed == seed


@pytest.mark.parametrize(
    "path,hint",
    [
        ("rl_b", "did you mean recipes/rl_b?"),
        ("mine/rl_a.py", "did you mean rl_a or recipes/rl_a?"),  # not the packaged one, silently
        ("configs/sft_c.py", "did you mean tuning/sft_c?"),
        ("recipes/rl_bb", "did you mean recipes/rl_b?"),
        ("../package/rl_a.py", "did you mean rl_a or recipes/rl_a?"),
        ("recipes", "did you mean recipes/rl_b?"),
        ("xyz", "known: rl_a, recipes/rl_a, recipes/rl_b, tuning/sft_c"),
    ],
)
def test_a_config_has_one_name(packaged, path, hint):
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert f"there is no config {path!r}; " in str(error.value) and hint in str(error.value)


def test_a_file_goes_before_a_name(packaged, tmp_path):
    write(tmp_path / "elsewhere", "return ConfigDict(dict(seed=7))", "configs/rl_a.py")
    assert load_config("configs/rl_a.py").seed == 7 and load_config("rl_a").seed == 0


def test_a_missing_file_names_the_nearest_packaged_one(tmp_path):
    with pytest.raises(ConfigError, match="did you mean rl_qwen2_5_vl_7b"):
        load_config("configs/rl_qwen2_5_vl_7B.py")
    (tmp_path / "config.txt").write_text("")
    with pytest.raises(ConfigError, match="not a Python file"):
        load_config(tmp_path / "config.txt")
