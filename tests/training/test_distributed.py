import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from braintumor.data.phantom import write_phantoms
from braintumor.errors import TrainingError
from braintumor.training.distributed import Processes, chosen_device, compute_dtype

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def torchrun(count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in so many processes on this machine, one thread each."""
    variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT / "src")}
    command = [*TORCHRUN, str(count), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 24, size=64)
    return folder


FIVE_STEPS = """
import sys
from pathlib import Path

import torch

from braintumor.training import train as module
from braintumor.training.checkpoint import write_tensors
from braintumor.training.distributed import processes
from braintumor.training.data import decoded, prepare
from braintumor.training.networks import build_network
from braintumor.training.config import TrainConfig

data, out = map(Path, sys.argv[1:])
config = TrainConfig("cnn", epochs=9, size=64, source_size=72, batch_size=15, dropout=0.0, label_smoothing=0.1, seed=1)
module.train_mode = lambda network, frozen: network.eval()
cpu = torch.device("cpu")
with processes(cpu) as process_group:
    with process_group.first_on_each_machine():
        manifest, _ = prepare(data, out / "cache", fraction=0.15, seed=0, skip_unreadable=False)
        images = decoded(manifest.part("train"), config.source_size, out / "cache", lambda _: None)
    images = type(images)(images.grey[:70], images.labels[:70])
    torch.manual_seed(process_group.rank)  # the processes must not need to begin alike
    network = build_network("cnn", dropout=0.0)
    if process_group.leads:
        torch.manual_seed(0)
        network = build_network("cnn", dropout=0.0)
    run = module.assemble(config, network, images, images, module.SilentProgress(), torch.float32, cpu, process_group)
    score = module._score
    # as where batch norms differ between the processes
    module._score = lambda run: tuple(value + process_group.rank for value in score(run))
    row = module.one_epoch(run, 0)
    (out / f"scores-{process_group.rank}").write_text(repr((row.val_loss, row.val_accuracy, row.val_macro_f1)))
    if process_group.leads:
        write_tensors(out / "weights.safetensors", network.state_dict() | {"loss": torch.tensor(row.train_loss)})
"""


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_same_global_batches(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "five_steps.py"
    program.write_text(FIVE_STEPS)
    results = []
    for count in (1, 2):
        out = tmp_path / str(count)
        out.mkdir()
        finished = torchrun(count, str(program), str(data), str(out))
        assert finished.returncode == 0, finished.stderr
        results.append(load_file(out / "weights.safetensors"))
    # or the processes would not stop after the same epoch, and wait for each other for ever
    assert (tmp_path / "2" / "scores-0").read_text() == (tmp_path / "2" / "scores-1").read_text()
    one, two = results
    assert one.pop("loss") == pytest.approx(float(two.pop("loss")), abs=1e-6)
    torch.manual_seed(0)
    from braintumor.training.networks import build_network

    start = build_network("cnn").state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    assert moved > 1e-4  # so that the next line says something
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_torchrun_trains_stops_and_resumes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train.py", "--model", "cnn", "--epochs", "2", "--batch_size", "16", "--data_dir", str(data)]
    program = tmp_path / "stopped.py"
    program.write_text(
        "import sys\n"
        "from braintumor.cli import main, output\n"
        "class Stops(output.TrainingProgress):\n"
        "    def epoch(self, row, epochs):\n"
        "        raise SystemExit(7)\n"
        "output.TrainingProgress = Stops\n"
        "main.main(sys.argv[1:])\n"
    )
    stopped = torchrun(2, str(program), "train", *command[1:], "--out", str(out))
    assert stopped.returncode != 0
    assert json.loads((out / "checkpoint" / "state.json").read_text())["history"][-1]["epoch"] == 1
    finished = torchrun(2, *command, "--out", str(out), "--resume")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("resumed after epoch 1") == 1  # one process reports
    assert finished.stdout.count("model folder:") == 1
    card = json.loads((out / "card.json").read_text())
    assert card["metrics"]["epochs"] == 2
    assert card["train"]["processes"] == 2


def test_alone_nothing_travels() -> None:
    alone = Processes()
    values = torch.tensor([3.0, 4.0])
    assert alone.leads
    assert alone.total(values) is values
    assert alone.share(values) is not None
    assert alone.share(values).tolist() == [3.0, 4.0]
    assert alone.same(2.5) == 2.5
    network = torch.nn.Linear(1, 1)
    assert alone.parallel(network) is network
    alone.wait()


def test_each_process_takes_its_part_of_a_batch() -> None:
    batch = torch.arange(5)
    parts = [Processes(rank, 2).share(batch).tolist() for rank in (0, 1)]
    assert parts == [[0, 2, 4], [1, 3]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match="no usable GPU; use --device auto or cpu"):
        chosen_device("cuda")
    assert chosen_device("auto") == chosen_device("cpu") == torch.device("cpu")


@pytest.mark.slow
def test_the_precision_is_one_that_the_device_has() -> None:
    threads = torch.get_num_threads()
    assert compute_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert torch.get_num_threads() == threads
