import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest

from gpukmeans_cli.system.worker_pool import InlinePool, ProcessPool, ThreadPool, in_order

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
POOLS = [InlinePool, lambda: ThreadPool(2), pytest.param(lambda: ProcessPool(2), marks=linux)]
PARALLEL_POOLS = POOLS[1:]


pytestmark = pytest.mark.usefixtures("ctrl_c")


def on_lost(task):
    return f"lost {task}"


def results_of(pool, function, tasks, stop=None):
    return in_order(pool, function, tasks, stop=stop or pool.event(), on_lost=on_lost)


@pytest.mark.parametrize(
    "make_pool", [*POOLS, lambda: ThreadPool(7), pytest.param(lambda: ProcessPool(7), marks=linux)]
)
def test_results_are_in_the_order_of_the_tasks(make_pool):
    def work(number):
        time.sleep(0.01 * (number % 3 == 0))
        return number * number

    assert list(results_of(make_pool(), work, range(50))) == [n * n for n in range(50)]


@pytest.mark.parametrize("make_pool", [ThreadPool, pytest.param(ProcessPool, marks=linux)])
def test_n_workers_tasks_run_at_a_time(make_pool):
    barrier = multiprocessing.get_context("fork" if make_pool is ProcessPool else None).Barrier(3)
    assert list(results_of(make_pool(3), lambda _: barrier.wait(timeout=10) < 3, range(6))) == [True] * 6


def test_an_inline_pool_runs_tasks_in_the_calling_thread():
    assert list(results_of(InlinePool(), lambda _: threading.get_ident(), range(3))) == [threading.get_ident()] * 3


@linux
def test_tasks_run_in_other_processes_after_the_initializer():
    initialized = []
    pool = ProcessPool(2, lambda: initialized.append("ready"))
    found = set(results_of(pool, lambda _: (os.getpid(), tuple(initialized)), range(20)))
    assert os.getpid() not in {number for number, _ in found}
    assert {state for _, state in found} == {("ready",)}
    assert initialized == []


@pytest.mark.parametrize("make_pool", POOLS)
def test_no_tasks_give_no_results(make_pool):
    assert list(results_of(make_pool(), str, [])) == []


@pytest.mark.parametrize("make_pool", POOLS)
def test_on_result_is_called_as_soon_as_a_task_completes(make_pool):
    completed, pool = [], make_pool()

    def work(number):
        time.sleep(0.2 * (number == 10))
        return number

    def on_result(index, number):
        assert index == number - 10
        completed.append(index)

    results = in_order(pool, work, range(10, 18), stop=pool.event(), on_result=on_result, on_lost=on_lost)
    assert next(results) == 10
    assert completed == ([0] if isinstance(pool, InlinePool) else [*completed[:-1], 0])
    assert list(results) == list(range(11, 18))
    assert sorted(completed) == list(range(8))


@pytest.mark.parametrize("make_pool", PARALLEL_POOLS)
def test_tasks_far_ahead_of_the_next_result_are_not_started(make_pool):
    completed, pool = [], make_pool()
    release = multiprocessing.get_context("fork").Event()

    def on_result(index, number):
        completed.append(number)
        if len(completed) == 31:
            release.set()

    def work(number):
        if number == 0:
            assert release.wait(timeout=20)
        return number

    results = in_order(pool, work, range(1000), stop=pool.event(), on_result=on_result, on_lost=on_lost)
    assert next(results) == 0
    assert set(completed) == set(range(32))  # task 0 completes last of all started tasks
    assert list(results) == list(range(1, 1000))


@pytest.mark.parametrize("make_pool", POOLS)
def test_an_error_is_raised_and_no_task_starts_after_it(make_pool):
    pool, results = make_pool(), []
    stop = pool.event()

    def work(number):
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three") as caught:
        results.extend(results_of(pool, work, range(1000), stop))
    assert len(results) <= 3
    assert stop.is_set()
    if isinstance(pool, ProcessPool):
        assert "in work" in str(caught.value.__cause__)


@pytest.mark.parametrize("make_pool", PARALLEL_POOLS)
def test_closing_the_generator_waits_until_no_worker_is_running(make_pool):
    pool = make_pool()
    stop, ended = pool.event(), multiprocessing.get_context("fork").Value("i", 0)

    def work(number):
        if number:
            while not stop.is_set():
                time.sleep(0.001)
            with ended.get_lock():
                ended.value += 1
        return number

    results = results_of(pool, work, range(1000), stop)
    assert next(results) == 0
    time.sleep(0.1)
    results.close()
    assert 1 <= ended.value <= 2
    assert multiprocessing.active_children() == []


@linux
def test_a_process_that_dies_loses_one_task_and_is_replaced():
    def work(number):
        if number in (3, 4, 9):
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    expected = [f"lost {n}" if n in (3, 4, 9) else n for n in range(12)]
    assert list(results_of(ProcessPool(2), work, range(12))) == expected


@linux
def test_a_process_that_dies_while_it_reads_the_stop_event_does_not_block_the_others():
    pool = ProcessPool(2)
    stop = pool.event()

    def work(number):
        if number < 8:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
            while not stop.is_set():
                pass
        return stop.is_set()

    watchdog = threading.Timer(60, os.kill, (os.getpid(), signal.SIGINT))  # ends a test that hangs
    watchdog.start()
    assert list(results_of(pool, work, range(10), stop)) == [f"lost {n}" for n in range(8)] + [False, False]
    watchdog.cancel()


@linux
@pytest.mark.parametrize("n_workers", [3, 2], ids=["at start", "a replacement"])
def test_ctrl_c_while_processes_are_forked_leaves_no_process(monkeypatch, n_workers):
    pool, made = ProcessPool(n_workers), []
    new_worker = pool._new_worker

    def interrupted():
        made.append(new_worker())
        if len(made) == 5 - n_workers:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return made[-1]

    monkeypatch.setattr(pool, "_new_worker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(results_of(pool, lambda number: os.kill(os.getpid(), signal.SIGKILL), range(9)))
    assert 2 <= len(made) <= 3
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("make_pool", POOLS)
def test_a_pool_that_cannot_start_leaves_no_process(monkeypatch, make_pool):
    pool, stop = make_pool(), threading.Event()
    original = pool.start

    def start(function, on_lost):
        original(function, on_lost)
        raise OSError("no more processes")

    monkeypatch.setattr(pool, "start", start)
    with pytest.raises(OSError, match="no more processes"):
        list(results_of(pool, str, range(3), stop))
    assert stop.is_set()
    assert multiprocessing.active_children() == []


@linux
def test_workers_end_when_their_parent_process_is_killed():
    receiver, sender = multiprocessing.get_context("fork").Pipe()

    def run_pool():
        pool = ProcessPool(2)
        results = results_of(pool, lambda _: os.getpid(), range(1000))
        sender.send(sorted({next(results) for _ in range(20)}))
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=run_pool)
    process.start()
    workers = receiver.recv()
    process.join()
    for _ in range(1000):
        if not [worker for worker in workers if is_running(worker)]:
            return
        time.sleep(0.01)
    raise AssertionError("a worker is still running")


def is_running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_workers_ignore_signals_to_the_process_group(number):
    def work(_):
        os.kill(os.getpid(), number)
        return "unharmed"

    assert list(results_of(ProcessPool(2), work, range(4))) == ["unharmed"] * 4


@linux
def test_the_stop_event_is_set_in_a_worker_whose_parent_was_killed():
    receiver, sender = multiprocessing.get_context("fork").Pipe()

    def work(stop, _):
        sender.send("begun")
        for _ in range(20_000):
            if stop.is_set():
                sender.send("stopped")
                return
            time.sleep(0.001)

    def run_pool():
        pool = ProcessPool(1)
        stop = pool.event()
        list(results_of(pool, partial(work, stop), [0], stop))

    process = multiprocessing.get_context("fork").Process(target=run_pool)
    process.start()
    assert receiver.poll(20)
    assert receiver.recv() == "begun"
    assert not receiver.poll(0.1)
    process.kill()
    process.join()
    assert receiver.poll(20)
    assert receiver.recv() == "stopped"


@linux
def test_a_result_that_is_not_read_any_more_is_no_error(capfd):
    def work(number):
        time.sleep(0.1 * number)
        return number

    results = results_of(ProcessPool(2), work, range(2))
    assert next(results) == 0
    time.sleep(0.3)  # the other result is in the pipe now
    results.close()
    assert capfd.readouterr().err == ""


@linux
def test_buffered_output_is_not_printed_again_by_workers(capfd):
    print("once")
    list(results_of(ProcessPool(2), str, range(4)))
    sys.stdout.flush()
    assert capfd.readouterr().out.count("once") == 1
