import os
import signal

import pytest

from data import workers


def double(number):
    return 2 * number


def test_results_come_in_order():
    with workers.Pool(2) as pool:
        assert list(pool.map(double, range(40), 40)) == [2 * number for number in range(40)]


def test_ctrl_c_waits_until_a_process_has_been_started(monkeypatch):
    submitted = []

    def submit(self, function, item):
        os.kill(os.getpid(), signal.SIGINT)
        submitted.append(item)

    monkeypatch.setattr(workers.concurrent.futures.ProcessPoolExecutor, "submit", submit)
    with workers.Pool(2) as pool, pytest.raises(KeyboardInterrupt):
        list(pool.map(double, range(40), 40))
    assert submitted == [0]
