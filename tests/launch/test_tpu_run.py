"""tpu_run.sh against a stand-in gcloud that keeps a slice of two hosts and executes what it is told over ssh."""

from __future__ import annotations

import concurrent.futures
import json
import shlex
import time

import pytest

CONFIG = "configs/rl_qwen2_5_vl_7b.py"
OVERRIDE = "--config.data.path=gs://b/it's $HOME; a * "
SETTINGS = {
    "PROJECT": "p",
    "ZONE": "us-east5-a",
    "TPU_NAME": "t",
    "ACCELERATOR_TYPE": "v5p-32",
    "TIER": "spot",
    "GS_DIR": "gs://b/x",
}
START = [
    "pixel-reasoner",
    "rl",
    "--distributed",
    "--config",
    CONFIG,
    "--config.workdir=gs://b/x/runs/rl_qwen2_5_vl_7b",
    OVERRIDE,
]


def steps(machine):
    """What was done, without looking at states."""
    names = []
    for call in machine.calls:
        if call[4] == "ssh":
            [command] = [
                a.removeprefix("--command=").replace(";", " ").split() for a in call if a.startswith("--command=")
            ]
            names.append(next((name for name in ("install", "start", "logs", "stop", "tail") if name in command), ""))
        else:
            names.append(call[4])
    return [name for name in names if name not in ("list", "describe", "")]


def trained(machine):
    return [command for command in machine.commands if command[0] == "pixel-reasoner"]


def set_up(machine):
    for command in ("create", "setup"):
        result = machine.launch("tpu_run.sh", command, **SETTINGS)
        assert result.returncode == 0, result.stderr


def test_a_run_from_nothing(machine):
    set_up(machine)
    result = machine.launch("tpu_run.sh", "run", CONFIG, OVERRIDE, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert "finished: gs://b/x/runs/rl_qwen2_5_vl_7b" in result.stderr
    assert steps(machine) == ["create", "scp", "install", "start"]
    assert trained(machine) == [START, START]  # on both hosts, the spaces and quotes of the override intact
    [create] = [call for call in machine.calls if call[4] == "create"]
    assert set(create) >= {"--spot", "--accelerator-type=v5p-32", "--runtime-version=v2-alpha-tpuv5", "--node-id=t"}
    assert all({"--project=p", "--zone=us-east5-a"} <= set(call) for call in machine.calls)
    start = next(a for call in machine.calls for a in call if " start " in a)
    assert start.startswith("--command=JAX_COMPILATION_CACHE_DIR=gs://b/x/jax_cache ")


def test_every_command_may_be_given_twice(machine):
    set_up(machine)
    set_up(machine)
    assert steps(machine) == ["create", "scp", "install", "scp", "install"]
    pip = [command for command in machine.commands if "pip" in command]
    assert len(pip) == 2 and pip[0][-1] == ".[tpu]"  # once a host
    for _ in range(2):
        assert machine.launch("tpu_run.sh", "stop", **SETTINGS).returncode == 0
    for _ in range(2):
        result = machine.launch("tpu_run.sh", "delete", **SETTINGS)
        assert result.returncode == 0
    assert "there is no t" in result.stderr
    assert steps(machine).count("delete") == 1


def test_a_dry_run_prints_what_is_called(machine):
    for arguments in (["create"], ["setup"], ["run", CONFIG, OVERRIDE], ["status"], ["delete"], ["resume", CONFIG]):
        dry = machine.launch("tpu_run.sh", *arguments, "--dry-run", **SETTINGS)
        assert dry.returncode == 0, dry.stderr
        if arguments[0] == "resume":  # printed as for a slice that is ready but was not set up
            assert machine.launch("tpu_run.sh", "create", **SETTINGS).returncode == 0
        before = len(machine.calls)
        assert machine.launch("tpu_run.sh", *arguments, **SETTINGS).returncode == 0
        printed = [shlex.split(line) for line in dry.stdout.splitlines()]
        assert [call for call in printed if call[0] == "gcloud"] == machine.calls[before:]
        assert [call[:2] for call in printed if call[0] != "gcloud"] in ([], [["git", "archive"]])


def test_waits_for_the_slice_and_survives_failures_on_the_way(machine):
    (machine.cloud / "created").write_text('["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]')
    machine.fail(list=2, scp=1, install=2, start=1)
    result = machine.launch("tpu_run.sh", "resume", CONFIG, OVERRIDE, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert "t is WAITING_FOR_RESOURCES" in result.stderr and "t is PROVISIONING" in result.stderr
    assert steps(machine) == ["create", "scp", "scp", "install", "install", "install", "start", "start"]
    assert trained(machine) == [[*START, "--resume"]] * 2


def test_a_slice_that_cannot_be_described_is_not_called_missing(machine):
    machine.launch("tpu_run.sh", "create", **SETTINGS)
    machine.fail(describe=1)
    result = machine.launch("tpu_run.sh", "setup", **SETTINGS)
    assert result.returncode == 2 and "gcloud cannot describe t; see above" in result.stderr


@pytest.mark.parametrize("arguments", [["create"], ["setup"], ["run", CONFIG]])
def test_a_missing_login_is_not_waited_for(machine, arguments):
    machine.fail(list=1)
    result = machine.launch("tpu_run.sh", *arguments, **SETTINGS)
    assert result.returncode == 2 and "cannot list the queued resources of p in us-east5-a" in result.stderr
    assert len(machine.calls) == 1


def test_a_slice_that_is_not_set_up_says_so(machine):
    machine.launch("tpu_run.sh", "create", **SETTINGS)
    result = machine.launch("tpu_run.sh", "run", CONFIG, **SETTINGS)
    assert result.returncode == 2 and "t is not set up: launch/tpu_run.sh setup" in result.stderr
    assert steps(machine) == ["create"]


def test_a_run_is_watched_again(machine):
    """The same command while the run is in progress: it is not started again, and its end is waited for."""
    set_up(machine)
    (machine.cloud / "hang").touch()
    for host in ("host0", "host1"):
        worker = machine.cloud / host / "pixel_reasoner_jax" / "launch" / "worker.sh"
        machine.launch(worker, "start", *START[1:])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        watching = pool.submit(machine.launch, "tpu_run.sh", "resume", CONFIG, OVERRIDE, **SETTINGS)
        while "worker.sh command;" not in str(machine.calls):
            assert not watching.done(), watching.result().stderr
            time.sleep(0.1)
        machine.launch("tpu_run.sh", "stop", **SETTINGS)
        result = watching.result()
    assert result.returncode == 2 and "the run was stopped" in result.stderr
    assert steps(machine) == ["create", "scp", "install", "stop"]


def test_a_preempted_run_is_resumed_on_a_new_slice(machine):
    set_up(machine)
    (machine.cloud / "hang").touch()
    (machine.cloud / "preempt").write_text("worker.sh state")
    result = machine.launch("tpu_run.sh", "run", CONFIG, OVERRIDE, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert "interrupted; restart 1" in result.stderr and "finished" in result.stderr
    again = ["delete", "create", "scp", "install", "start"]
    assert steps(machine) == ["create", "scp", "install", "start", *again]
    assert trained(machine) == [START, START, [*START, "--resume"], [*START, "--resume"]]


def test_a_run_that_lost_a_host_is_resumed_where_it_is(machine):
    set_up(machine)
    (machine.cloud / "hang").touch()
    kill = f"sleep 2; kill -KILL -- -$(cat {machine.cloud}/host1/*/.run/pid)"
    machine.stand_in(
        "sleep", f'if mkdir "$CLOUD/killed" 2>/dev/null; then {kill}; fi; exec /bin/sleep "$@"', record=False
    )
    result = machine.launch("tpu_run.sh", "run", CONFIG, OVERRIDE, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert steps(machine) == ["create", "scp", "install", "start", "stop", "scp", "install", "start"]


@pytest.mark.parametrize("own", [True, False])
def test_what_goes_on_on_one_host_alone(machine, own):
    """A resumed run is stopped there first, another's is left alone."""
    set_up(machine)
    (machine.cloud / "hang").touch()
    host0, host1 = (machine.cloud / host / "pixel_reasoner_jax" for host in ("host0", "host1"))
    machine.launch(host0 / "launch" / "worker.sh", "start", *(START[1:] if own else ["rl"]))
    (host1 / ".run").mkdir()
    (host1 / ".run" / "status").write_text("1")
    result = machine.launch("tpu_run.sh", "resume", CONFIG, OVERRIDE, **SETTINGS)
    if own:
        assert result.returncode == 0, result.stderr
        assert steps(machine) == ["create", "scp", "install", "stop", "scp", "install", "start"]
    else:
        assert result.returncode == 2 and "another run is in progress on t: rl; stop it first" in result.stderr
        assert steps(machine) == ["create", "scp", "install"]
        machine.launch("tpu_run.sh", "stop", **SETTINGS)


def test_a_run_that_sigterm_has_stopped_goes_on_where_it_is(machine):
    set_up(machine)
    for host in ("host0", "host1"):
        (machine.cloud / host / "stopped").touch()
    program = '[[ ! -e "$HOME/stopped" ]] || { rm "$HOME/stopped"; exit 75; }'
    for host in ("host0", "host1"):
        installed = machine.cloud / host / "pixel_reasoner_jax" / ".venv" / "bin" / "pixel-reasoner"
        installed.write_text(installed.read_text() + program + "\n")
    result = machine.launch("tpu_run.sh", "run", CONFIG, OVERRIDE, **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert steps(machine) == ["create", "scp", "install", "start"]
    assert sorted(trained(machine)) == [START, START, [*START, "--resume"], [*START, "--resume"]]


def test_a_run_that_fails_is_not_started_again(machine):
    set_up(machine)
    (machine.cloud / "breaks").touch()
    result = machine.launch("tpu_run.sh", "run", CONFIG, **SETTINGS)
    assert result.returncode == 2 and "the run failed" in result.stderr
    assert result.stdout.count("out of luck") == 2  # the end of both logs
    assert steps(machine) == ["create", "scp", "install", "start", "stop", "tail"]


def test_gives_up_when_nothing_helps(machine):
    machine.fail(install=9)
    assert machine.launch("tpu_run.sh", "create", **SETTINGS).returncode == 0
    result = machine.launch("tpu_run.sh", "setup", **SETTINGS)
    assert result.returncode != 0 and steps(machine).count("install") == 5
    (machine.cloud / "states").write_text('["FAILED"]')  # of an earlier request: asked for anew, and that fails too
    (machine.cloud / "created").write_text('["FAILED"]')
    result = machine.launch("tpu_run.sh", "create", **SETTINGS)
    assert result.returncode == 2 and "the request failed" in result.stderr
    assert steps(machine)[-2:] == ["delete", "create"]


def test_a_run_in_progress_is_left_alone(machine):
    set_up(machine)
    (machine.cloud / "hang").touch()
    result = machine.launch("tpu_run.sh", "status", **SETTINGS)
    assert result.stdout.splitlines() == ["slice: READY", "job: none", "job: none"]
    for host in ("host0", "host1"):
        worker = machine.cloud / host / "pixel_reasoner_jax" / "launch" / "worker.sh"
        machine.launch(worker, "start", "rl")
    result = machine.launch("tpu_run.sh", "setup", **SETTINGS)
    assert result.returncode == 2 and "a run is in progress" in result.stderr
    for command in ("run", "resume"):
        result = machine.launch("tpu_run.sh", command, CONFIG, **SETTINGS)
        assert result.returncode == 2 and "another run is in progress on t: rl; stop it first" in result.stderr
    result = machine.launch("tpu_run.sh", "status", **SETTINGS)
    assert result.stdout.splitlines() == ["slice: READY", "job: running", "job: running"]
    assert machine.launch("tpu_run.sh", "stop", **SETTINGS).returncode == 0
    result = machine.launch("tpu_run.sh", "status", **SETTINGS)
    assert result.stdout.splitlines() == ["slice: READY", "job: stopped", "job: stopped"]
    assert steps(machine) == ["create", "scp", "install", "stop"]


@pytest.mark.parametrize("missing", ["PROJECT", "ZONE", "TPU_NAME", "ACCELERATOR_TYPE", "TIER", "GS_DIR"])
def test_says_what_is_unset(machine, missing):
    result = machine.launch("tpu_run.sh", "run", CONFIG, **SETTINGS | {missing: ""})
    assert result.returncode == 2 and f"not set: {missing}; export" in result.stderr
    result = machine.launch("tpu_run.sh", "run", CONFIG, **dict.fromkeys(SETTINGS, ""))
    assert "not set: PROJECT ZONE TPU_NAME; export them, or give --project=VALUE --zone=VALUE --" in result.stderr
    assert not machine.calls


def test_settings_may_be_flags(machine):
    flags = [f"--{name.lower().replace('_', '-')}={value}" for name, value in SETTINGS.items() if name != "TIER"]
    result = machine.launch("tpu_run.sh", *flags, "--reserved", "--accelerator-type=v6e-32", "create", "--dry-run")
    create = next(line for line in result.stdout.splitlines() if " create " in line)
    assert "--reserved" in create and "--runtime-version=v2-alpha-tpuv6e" in create


@pytest.mark.parametrize(
    "arguments, settings, message",
    [
        (["run"], {}, "CONFIG is missing"),
        (["run", "configs/rl_qwen2_5_vl_70b.py"], {}, "is not in the last commit"),
        (["run", "configs/quickstart.py"], {}, "must begin with sft_ or rl_"),
        (["run", CONFIG], {"GS_DIR": "/tmp"}, "must be gs://BUCKET"),
        (["run", CONFIG, "--resume"], {}, "unknown flag --resume"),
        (["run", CONFIG], {}, "t is NONE: create it"),
        (["setup"], {}, "t is NONE: create it first"),
        (["create"], {"ACCELERATOR_TYPE": "v9-8"}, "no image is known for v9-8"),
        (["create"], {"TIER": "cheap"}, "it must be spot, reserved or on-demand"),
        (["launch"], {}, "there is no command launch"),
        (["run", CONFIG, "more"], {}, "there is more than a config: more"),
        (["run", CONFIG, "--config.workdir=gs://b/y"], {}, "the working directory is GS_DIR/runs/RUN_NAME"),
        (["run", CONFIG], {"GS_DIR": "gs:///x"}, "must be gs://BUCKET"),
        (["run", CONFIG], {"POLL_SECONDS": "soon"}, "POLL_SECONDS is soon: it must be a number"),
        (["run", CONFIG, "--max-restarts=x"], {}, "MAX_RESTARTS is x: it must be a number"),
        (["logs", "--worker=x"], {}, "WORKER is x: it must be the number of a host"),
        (["run", CONFIG, "--run-name=../x"], {}, "RUN_NAME is ../x: it must be of letters"),
        (["create"], {"ACCELERATOR_TYPE": "v5e-16"}, "calls it v5litepod-16"),
        ([], {"PROJECT": ""}, "launch/tpu_run.sh [--SETTING=VALUE…]"),
    ],
)
def test_mistakes(machine, arguments, settings, message):
    result = machine.launch("tpu_run.sh", *arguments, **SETTINGS | settings)
    assert result.returncode == 2 and message in result.stderr
    assert all(json.dumps(call).count("queued-resources") for call in machine.calls)  # nothing but a look


def test_help(machine):
    result = machine.launch("tpu_run.sh", "-h")
    assert result.returncode == 0 and "launch/tpu_run.sh [--SETTING=VALUE…]" in result.stderr
