import math

import pytest

from braintumor.training.config import TrainConfig
from braintumor.training.schedule import averaging_decay, epoch_order, learning_rate, train_size


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    config = TrainConfig("cnn", epochs=10)
    assert learning_rate(config, 0) == pytest.approx(1e-4)
    assert learning_rate(config, 5) == pytest.approx((1e-4 + 1e-6) / 2)
    assert learning_rate(config, 2.5) == pytest.approx(1e-6 + 9.9e-5 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(config, 10) == pytest.approx(1e-6)


def test_the_learning_rate_first_rises_in_a_straight_line() -> None:
    config = TrainConfig("cnn", epochs=10, warmup_epochs=2, learning_rate=1e-3, final_learning_rate=1e-5)
    assert learning_rate(config, 0) == pytest.approx(1e-5)
    assert learning_rate(config, 1) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(config, 2) == pytest.approx(1e-3)
    assert learning_rate(config, 6) == pytest.approx((1e-3 + 1e-5) / 2)  # half of the eight epochs left
    assert learning_rate(config, 10) == pytest.approx(1e-5)


def test_each_training_size_gets_an_equal_share_of_the_epochs() -> None:
    config = TrainConfig("cnn", epochs=8, train_sizes=(128, 128, 160, 192))
    assert [train_size(config, number) for number in range(8)] == [128, 128, 128, 128, 160, 160, 192, 192]
    assert {train_size(TrainConfig("cnn", size=200), number) for number in range(50)} == {200}


def test_more_sizes_than_epochs_end_below_the_last() -> None:
    config = TrainConfig("cnn", epochs=1, train_sizes=(96, 128))
    assert train_size(config, 0) == 96


def test_the_average_first_forgets_fast() -> None:
    config = TrainConfig("cnn", averaging=0.99)
    assert averaging_decay(config, 0) == pytest.approx(0.1)
    assert averaging_decay(config, 80) == pytest.approx(0.9)
    assert averaging_decay(config, 10_000) == 0.99
    assert averaging_decay(TrainConfig("cnn"), 80) == 0


def test_an_epoch_visits_every_image_once_in_its_own_order() -> None:
    config = TrainConfig("cnn", batch_size=4)
    first, second = (epoch_order(config, number, 10) for number in (0, 1))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(index for batch in first for index in batch.tolist()) == list(range(10))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in epoch_order(config, 0, 10)]


def test_a_last_batch_too_small_for_batch_norm_is_left_out() -> None:
    config = TrainConfig("cnn", batch_size=4)
    assert [len(batch) for batch in epoch_order(config, 0, 9)] == [4, 4]
    assert [len(batch) for batch in epoch_order(config, 0, 11, smallest=4)] == [4, 4]
    assert [len(batch) for batch in epoch_order(config, 0, 3, smallest=4)] == [3]
