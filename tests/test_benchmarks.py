"""The parts of the benchmarks that decide what a result says; the measurements themselves are not repeated here."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from braintumor.training.config import recipe
from braintumor.training.networks import build_network, multiply_adds

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield patch


@pytest.fixture(scope="module")
def peer(benchmarks: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("peer_training")


@pytest.fixture(scope="module")
def gpu(benchmarks: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("gpu_training")


@pytest.fixture(scope="module")
def inference(benchmarks: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("inference")


def test_what_is_compared_takes_turns_after_a_warm_up(inference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PAIRS", 2)
    calls: list[str] = []
    times = inference.seconds([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert "".join(calls) == "ab" + "aabb" * 2
    assert [len(taken) for taken in times] == [2, 2]
    assert inference.ratios([4.0, 9.0], [2.0, 3.0]) == [2, 3]


ANSWERING = """
import time
print("header")
for answer in range({answers}):
    print(answer, flush=True)
    time.sleep(0.3 if answer == 1 else 0)
{ending}
"""


@pytest.fixture
def few_files(inference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "FILES", 4)
    monkeypatch.setattr(inference, "EARLY", 2)


@pytest.mark.usefixtures("few_files")
def test_memory_is_that_of_the_early_answers_and_of_all(inference: ModuleType) -> None:
    program = ANSWERING.format(answers=4, ending="kept = b'x' * 2**26; time.sleep(0.5)")
    early, peak = inference.memory_of([sys.executable, "-c", program])
    assert 1 < early < 60
    assert peak > early + 60


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(("answers", "ending"), [(3, "pass"), (4, "raise SystemExit(3)")])
def test_a_command_that_fails_or_leaves_files_out_gives_no_result(
    inference: ModuleType, answers: int, ending: str
) -> None:
    with pytest.raises(SystemExit, match=f"after {answers} of 4 answers"):
        inference.memory_of([sys.executable, "-c", ANSWERING.format(answers=answers, ending=ending)])


def test_a_model_that_is_not_trained_yet_says_what_trains_it(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inference, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="runs/resnet-fast is missing; train it with: python benchmarks/official_fast"):
        inference.trained_model()


def history(*accuracies: float, minutes: float) -> list[dict[str, float]]:
    return [{"minutes": minutes * epoch, "accuracy": accuracy} for epoch, accuracy in enumerate(accuracies, start=1)]


def test_the_ratio_of_times_counts_to_the_first_epoch_that_is_good_enough(peer: ModuleType) -> None:
    found = peer.numbers_of(history(0.9, 0.97, minutes=1.0), history(0.5, 0.9, 0.964, minutes=4.0))
    assert found["ratio_time"]["value"] == pytest.approx(12 / 2)
    assert found["peer.epochs_to_0.964"]["value"] == 3
    assert found["ours.minutes_to_0.964"]["value"] == 2


def test_a_peer_that_does_not_get_there_gives_a_lower_bound_under_another_name(peer: ModuleType) -> None:
    found = peer.numbers_of(history(0.97, minutes=2.0), history(0.9, 0.95, minutes=5.0))
    assert found["ratio_time_at_least"]["value"] == pytest.approx(5)
    assert "ratio_time" not in found
    assert "peer.minutes_to_0.964" not in found


def test_there_is_no_ratio_where_ours_does_not_get_there(peer: ModuleType) -> None:
    assert not [key for key in peer.numbers_of(history(0.9, minutes=1.0), history(0.97, minutes=1.0)) if "ratio" in key]


def test_an_interrupted_peer_goes_on_where_it_was(peer: ModuleType, tmp_path: Path) -> None:
    inputs = torch.rand(5, 3)
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    first, second = (SimpleNamespace(network=layer, optimizer=torch.optim.Adam(layer.parameters())) for layer in layers)

    def weights_after_a_step(script: SimpleNamespace) -> torch.Tensor:
        script.optimizer.zero_grad()
        script.network(inputs).square().sum().backward()
        script.optimizer.step()
        weights: torch.Tensor = script.network.weight.detach().clone()
        return weights

    weights_after_a_step(first)
    peer.save(first, tmp_path / "state")
    peer.restore(second, tmp_path / "state")
    assert torch.equal(weights_after_a_step(first), weights_after_a_step(second))


@pytest.mark.slow
def test_the_operations_of_a_step_are_those_of_the_layers_that_are_computed(gpu: ModuleType) -> None:
    config = recipe("reference", "resnet")
    forward = 2 * multiply_adds(build_network("resnet"), 64)
    everything, late = (gpu.step_operations(replace(config, frozen=frozen), 64) for frozen in ((), config.frozen))
    stem = 2 * 64 * 32 * 32 * 3 * 7 * 7  # no gradient by the image
    assert everything == pytest.approx(3 * forward - stem)
    assert forward < late < everything


def test_the_epochs_of_the_long_run_fit_into_the_time(gpu: ModuleType) -> None:
    first_ten_then_five = [{"minutes": (10 + 5 * epoch) / 60, "accuracy": 0.9} for epoch in range(3)]
    assert gpu.affordable(first_ten_then_five) == 1 + (gpu.BUDGET_S - 10) // 5
