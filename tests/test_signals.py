"""Signals: SIGTERM and Ctrl-C at any moment of a command, and the run that they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from compilations import counting_compilations
from launcher import started
from marks import slow
from PIL import Image
from test_resume import checkpoints_of, history_of, model_of

import jax_mnist
from jax_mnist import EpochRecord, init_state, load, load_run
from jax_mnist.__main__ import main
from jax_mnist.cli import evaluate, predict, train
from jax_mnist.cli.signals import saving_on_signals
from jax_mnist.recipes import RECIPES, make_learner
from jax_mnist.runs import Progress, save_progress, write_results

SCRIPTS = Path(__file__).parents[1] / "scripts"
TRAIN = [str(SCRIPTS / "train.py"), "--platform", "cpu"]
PACKAGE = Path(jax_mnist.__file__).parent
COMMANDS = [[str(path)] for path in SCRIPTS.glob("*.py") if (PACKAGE / "cli" / path.name).exists()]
MODULE = ["-m", "jax_mnist"]
SHORT = ["--optimizer", "momentum", "--learning-rate", "0.01", "--shift", "1"]
# A job whose epochs are long enough for a signal to arrive before the last one ends.
JOB = [sys.executable, *TRAIN, *SHORT, "--hidden", "600", "--checkpoint-every", "1000", "--tensorboard"]
# An epoch of some seconds: 12,396 steps.
LONG = ["--epochs", "3", "--batch-size", "1", "--hidden", "600", "--learning-rate", "0.001"]


@pytest.fixture(scope="module", autouse=True)
def default_ctrl_c():
    """Let the processes inherit it: a shell starts a script's background job, such as the tests, with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": ""},  # without the quick tests' flags, which make long epochs many times longer
    )


def wait_for_handlers(process):
    """Wait until the process catches SIGTERM, which Python does not do by itself."""
    caught = 0
    while not caught & 1 << (signal.SIGTERM - 1) and process.poll() is None:
        caught = int(re.findall(r"SigCgt:\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text())[0], 16)


def wait_for_epochs(process, out):
    """Wait for the first epoch by its event in TensorBoard's file, which, unlike a checkpoint, saves nothing."""
    while not any(file.stat().st_size for file in out.glob("tensorboard/*")) and process.poll() is None:
        time.sleep(0.01)


def stop(process, number):
    """Send the signal and return what the process printed; check its exit code and that there is no traceback."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in output + errors
    assert process.returncode == 128 + number, output + errors
    return output


def finish(arguments):
    process = start(arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def result_of(out):
    return json.loads((out / "result.json").read_text())


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc shows the handlers")


@needs_proc
@pytest.mark.parametrize(
    ("command", "number"),
    [*((command, signal.SIGINT) for command in [*COMMANDS, MODULE]), slow(MODULE, signal.SIGTERM)],
    ids=lambda value: Path(value[-1]).stem if isinstance(value, list) else value.name,
)
def test_commands_end_quietly_while_they_start(command, number):
    process = start([*command, "--help"])
    wait_for_handlers(process)
    assert stop(process, number) == ""


@pytest.mark.slow
def test_signal_in_an_epoch_saves_the_one_before_without_waiting(tmp_path, capsys):
    process = start([*TRAIN, *LONG, "--tensorboard", "--out", str(tmp_path)])
    wait_for_epochs(process, tmp_path)
    time.sleep(0.3)
    output = stop(process, signal.SIGTERM)
    line = (
        f"stopped by SIGTERM: 1 of 3 epochs are finished and saved; the same options with --resume {tmp_path} continue"
    )
    assert output.splitlines()[-1] == line

    result = result_of(tmp_path)
    assert (result["stopped"], result["epoch"]) == ("SIGTERM", 1)
    assert checkpoints_of(tmp_path) == ["checkpoint-1.safetensors"]
    assert [row["epoch"] for row in history_of(tmp_path)] == ["1"]
    assert evaluate.main([str(tmp_path)]) == 0
    assert f"{result['accuracy']:.4f}" in capsys.readouterr().out
    digit = load("mnist_sample").valid.images[0]
    Image.fromarray(255 - digit).resize((280, 280)).save(tmp_path / "digit.png")
    assert predict.main([str(tmp_path), str(tmp_path / "digit.png")]) == 0


def test_saving_runs_no_program(tmp_path, tiny):
    # On a GPU a program would wait for the epoch that runs, however small it is; on a CPU it might not.
    recipe = RECIPES["chapter"]._replace(optimizer="adam", ema=0.9)
    state = init_state(jax.random.key(0), make_learner(recipe, 30, 2))
    progress = Progress(state, best=state).add(state, EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1))
    jax.clear_caches()  # so that any operation has to be compiled
    with counting_compilations() as programs:
        save_progress(tmp_path, progress, {})
        params, result = train._result(progress, tiny, {}, {}, "SIGTERM")
        write_results(tmp_path, params, progress.records, {}, result)
        assert programs == []
        jax.block_until_ready(state.epoch + 1)
        assert len(programs) == 1


@needs_proc
@pytest.mark.slow
def test_signal_before_the_first_epoch_saves_nothing(tmp_path):
    process = start([*TRAIN, *LONG, "--tensorboard", "--out", str(tmp_path)])
    while not (tmp_path / "tensorboard").exists() and process.poll() is None:
        time.sleep(0.01)
    assert "stopped by SIGINT: 0 of 3 epochs are finished; nothing is saved" in stop(process, signal.SIGINT)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def start_saving(save, block):
    """Start a process with these two expressions: what a signal calls with its name, and what the block runs."""
    code = f"""
import sys, threading, time
from jax_mnist.cli.signals import exit_on_signals, saving_on_signals
def say(line):
    print(line, flush=True)
saving, ended = threading.Event(), threading.Event()
exit_on_signals()
with saving_on_signals(lambda name: {save}) as lock:
    {block}
say("after")
time.sleep(60)
"""
    return start(["-c", code])


def read_line(process):
    return process.stdout.readline().strip()


def test_second_signal_ends_at_once():
    process = start_saving("(say(name), time.sleep(60))", "(say('ready'), time.sleep(60))")
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert read_line(process) == "SIGTERM"
    assert stop(process, signal.SIGINT) == ""


def test_block_goes_on_while_a_signal_saves_but_not_past_its_end():
    save = "(say(name), saving.set(), ended.wait(), time.sleep(0.2))"
    process = start_saving(save, "(say('ready'), saving.wait(), say('end'), ended.set())")
    assert read_line(process) == "ready"
    assert stop(process, signal.SIGTERM) == "SIGTERM\nend\n"


def test_saving_waits_for_the_lock():
    block = "with lock: say('ready'); time.sleep(0.3); say('released')\n    time.sleep(60)"
    process = start_saving("say(name)", block)
    assert read_line(process) == "ready"
    assert stop(process, signal.SIGTERM) == "released\nSIGTERM\n"


def test_signal_after_the_block_does_not_save():
    process = start_saving("say(name)", "pass")
    assert read_line(process) == "after"
    assert stop(process, signal.SIGTERM) == ""


def test_failed_save_is_one_line():
    process = start_saving("open('/nowhere/run')", "(say('ready'), time.sleep(60))")
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors == "error: the last epoch is not saved: [Errno 2] No such file or directory: '/nowhere/run'\n"


def test_cursor_is_shown_again():
    parent, child = os.openpty()
    code = """
import time
from jax_mnist.cli.signals import exit_on_signals
exit_on_signals()
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=child)
    os.close(child)
    assert os.read(parent, 100).strip() == b"ready"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert os.read(parent, 100).endswith(b"\x1b[?25h")
    os.close(parent)


def test_ignored_ctrl_c_stays_ignored():
    code = """
import signal, time
from jax_mnist.cli.signals import exit_on_signals
signal.signal(signal.SIGINT, signal.SIG_IGN)
exit_on_signals()
print("ready", flush=True)
time.sleep(60)
"""
    process = start(["-c", code])
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGINT)
    assert stop(process, signal.SIGTERM) == ""


def test_nothing_is_installed_in_another_program(tmp_path):
    def handlers():
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        return [fd, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]

    before = handlers()
    assert main(["datasets"]) == 0
    with saving_on_signals(lambda name: os._exit(1)):
        assert handlers() == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Return a run that is not stopped, and the seconds that its process takes."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    begun = time.perf_counter()
    finish([*TRAIN, *SHORT, "--epochs", "60", "--out", str(out)])
    return out, time.perf_counter() - begun


FURTHER_MOMENTS = [
    (0, 0.2, signal.SIGINT),
    (0, 0.5, signal.SIGTERM),
    (1, 0.007, signal.SIGINT),
    (20, 0.002, signal.SIGTERM),
    (40, 0.005, signal.SIGINT),
]


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("epoch", "share", "number"),
    [
        (0, 0.1, signal.SIGTERM),
        (0, 0.3, signal.SIGINT),
        (1, 0.003, signal.SIGTERM),
        (20, 0.006, signal.SIGINT),
        (40, 0.009, signal.SIGTERM),
        *(pytest.param(*moment, marks=pytest.mark.soak) for moment in FURTHER_MOMENTS),
    ],
)  # a share of the process's time after that epoch: the imports, the data and the compilation, epochs and checkpoints
def test_run_stopped_at_several_moments_and_resumed_is_bit_identical(unbroken, tmp_path, epoch, share, number):
    expected, seconds = unbroken
    command = [*TRAIN, *SHORT, "--epochs", "60", "--checkpoint-every", "1", "--resume", str(tmp_path)]
    process = start(command)
    wait_for_handlers(process)
    while epoch and not (tmp_path / f"checkpoint-{epoch}.safetensors").exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds * share)
    output = stop(process, number)
    finished = [int(n) for n in re.findall(r"(\d+) of 60 epochs are finished and saved", output)]
    if epoch:
        assert finished[0] >= epoch
        assert f"checkpoint-{finished[0]}.safetensors" in checkpoints_of(tmp_path)
        assert load_run(tmp_path).classes == ("7", "3")
    finish(command)
    assert result_of(tmp_path).get("resumed_from", {}).get("epoch") == (finished or [None])[0]
    assert "stopped" not in result_of(tmp_path)
    assert model_of(tmp_path) == model_of(expected)
    assert history_of(tmp_path) == history_of(expected)


@pytest.mark.slow
def test_signal_while_further_seeds_train_keeps_the_first(tmp_path):
    command = [*TRAIN, "--epochs", "3", "--seeds", "50", "--resume", str(tmp_path)]
    process = start(command)
    while not checkpoints_of(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    assert "3 of 3 epochs are finished and saved" in stop(process, signal.SIGTERM)
    model = model_of(tmp_path)
    assert result_of(tmp_path)["stopped"] == "SIGTERM"
    finish(command)
    assert len(result_of(tmp_path)["seeds"]) == 50
    assert model_of(tmp_path) == model


@pytest.mark.slow
def test_job_of_two_processes_saves_and_resumes_bit_identically(tmp_path):
    command = [*JOB, "--epochs", "4", "--resume"]
    with started([*command, str(tmp_path / "unbroken")], 2) as processes:
        assert [process.wait() for process in processes] == [0, 0]
    out = tmp_path / "run"
    with started([*command, str(out)], 2) as processes:
        wait_for_epochs(processes[0], out)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], errors
    assert "Traceback" not in "".join(errors)
    assert result_of(out)["stopped"] == "SIGTERM"
    with started([*command, str(out)], 2) as processes:
        assert [process.wait() for process in processes] == [0, 0]
    assert result_of(out)["resumed_from"]["epoch"] >= 1
    assert model_of(out) == model_of(tmp_path / "unbroken")
    assert history_of(out) == history_of(tmp_path / "unbroken")


@pytest.mark.slow
def test_first_process_saves_if_another_gets_its_signal_earlier(tmp_path):
    with started([*JOB, "--epochs", "60", "--out", str(tmp_path)], 2) as processes:
        wait_for_epochs(processes[0], tmp_path)
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 143], errors
    assert len(checkpoints_of(tmp_path)) == 1
