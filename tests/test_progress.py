"""The line on stderr: silent where nobody watches."""

import re

import pytest

import npvae as nv
from npvae import progress
from npvae.progress import Progress, clock


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def ticking(monkeypatch):
    ticking = Clock()
    monkeypatch.setattr(progress, "time", ticking)
    return ticking


def test_nothing_is_written_where_nobody_watches(capfd):
    bar = Progress(10)
    assert not bar.watched
    for done in range(11):
        bar.update(done, "working")
    bar.say("a line")
    bar.close()
    assert capfd.readouterr() == ("", "")


def test_share_rate_and_time_left(ticking, capfd):
    bar = Progress(400, watched=True)
    ticking.now += 2
    bar.update(100, "loss 3.14")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"\r█{5}░{15}  25 %  50 steps/s  0:06 left  loss 3\.14", err)


def test_a_resumed_run_counts_its_own_steps(ticking, capfd):
    """300 of 400 are done, 50 of them in the last second: one more second for each of the 50s that are left."""
    bar = Progress(400, done=250, watched=True)
    ticking.now += 1
    bar.update(300, "")
    assert re.search(r" 75 %  50 steps/s  0:02 left", capfd.readouterr().err)


def test_ten_times_a_second_at_most_and_always_the_end(ticking, capfd):
    bar = Progress(1000, watched=True)
    for done in range(1, 1001):
        ticking.now += 0.001
        bar.update(done, "")
    written = capfd.readouterr().err.split("\r")[1:]
    assert 9 <= len(written) <= 11
    assert "100 %" in written[-1]
    assert "0:00 left" in written[-1]


def test_nothing_done_yet(ticking, capfd):
    bar = Progress(10, watched=True)
    ticking.now += 1
    bar.update(0, "")
    assert "0 %  0 steps/s  ?:?? left" in capfd.readouterr().err


def test_a_long_line_is_cut(ticking, capfd):
    bar = Progress(10, watched=True)
    ticking.now += 1
    bar.update(5, "x" * 500)
    assert capfd.readouterr().err.count("x") < 160


def test_lines_stay_and_the_bar_goes(capfd):
    bar = Progress(10, watched=True)
    bar.say("epoch 1")
    assert capfd.readouterr().err == "\repoch 1\x1b[K\n"
    bar.close()
    assert capfd.readouterr().err == "\r\x1b[K"


@pytest.mark.parametrize(
    "seconds, text", ((0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3661, "61:01"), (float("inf"), "?:??"))
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_training_shows_its_epochs_if_asked(capfd):
    data = nv.datasets.from_arrays([[0.0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]] * 10)
    model = nv.VAE(data=4, hidden=(3,), latent=2)
    nv.train(model, data, epochs=2, batch=10)
    assert capfd.readouterr() == ("", "")
    run = nv.train(model, data, epochs=2, batch=10, watched=True)
    out, err = capfd.readouterr()
    assert out == ""
    for row in run.history:
        assert f"epoch {row['epoch']:.0f}/2" in err
        assert f"train {row['train_loss']:.2f}  test {row['test_loss']:.2f}" in err
    assert "100 %" in err
    assert "left" in err
