import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial

import pytest

from gpukmeans_cli.system.worker_pool import Alone, Processes, Threads, in_order

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
CREWS = [Alone, lambda: Threads(2), pytest.param(lambda: Processes(2), marks=linux)]
SEVERAL = CREWS[1:]


pytestmark = pytest.mark.usefixtures("ctrl_c")


def lost(thing):
    return f"lost {thing}"


def results_of(crew, work, things, stop=None):
    return in_order(crew, work, things, stop=stop or crew.event(), lost=lost)


@pytest.mark.parametrize("crew", [*CREWS, lambda: Threads(7), pytest.param(lambda: Processes(7), marks=linux)])
def test_results_come_in_the_order_of_the_things(crew):
    def work(number):
        time.sleep(0.01 * (number % 3 == 0))
        return number * number

    assert list(results_of(crew(), work, range(50))) == [n * n for n in range(50)]


@pytest.mark.parametrize("crew", [Threads, pytest.param(Processes, marks=linux)])
def test_so_many_are_worked_on_at_a_time(crew):
    together = multiprocessing.get_context("fork" if crew is Processes else None).Barrier(3)
    assert list(results_of(crew(3), lambda _: together.wait(timeout=10) < 3, range(6))) == [True] * 6


def test_alone_is_this_thread():
    assert list(results_of(Alone(), lambda _: threading.get_ident(), range(3))) == [threading.get_ident()] * 3


@linux
def test_processes_are_others_and_are_prepared():
    prepared = []
    crew = Processes(2, lambda: prepared.append("ready"))
    found = set(results_of(crew, lambda _: (os.getpid(), tuple(prepared)), range(20)))
    assert os.getpid() not in {number for number, _ in found}
    assert {state for _, state in found} == {("ready",)}
    assert prepared == []


@pytest.mark.parametrize("crew", CREWS)
def test_nothing_is_nothing(crew):
    assert list(results_of(crew(), str, [])) == []


@pytest.mark.parametrize("crew", CREWS)
def test_each_result_is_seen_as_soon_as_it_is_there(crew):
    seen, crew = [], crew()

    def work(number):
        time.sleep(0.2 * (number == 10))
        return number

    def see(place, number):
        assert place == number - 10
        seen.append(place)

    results = in_order(crew, work, range(10, 18), stop=crew.event(), seen=see, lost=lost)
    assert next(results) == 10
    assert seen == ([0] if isinstance(crew, Alone) else [*seen[:-1], 0])
    assert list(results) == list(range(11, 18))
    assert sorted(seen) == list(range(8))


@pytest.mark.parametrize("crew", SEVERAL)
def test_what_is_far_ahead_of_the_results_waits(crew):
    seen, crew = [], crew()
    release = multiprocessing.get_context("fork").Event()

    def see(place, number):
        seen.append(number)
        if len(seen) == 31:
            release.set()

    def work(number):
        if number == 0:
            assert release.wait(timeout=20)
        return number

    results = in_order(crew, work, range(1000), stop=crew.event(), seen=see, lost=lost)
    assert next(results) == 0
    assert set(seen) == set(range(32))  # the first comes last of all that were begun meanwhile
    assert list(results) == list(range(1, 1000))


@pytest.mark.parametrize("crew", CREWS)
def test_an_error_is_raised_and_nothing_is_begun_after_it(crew):
    crew, results = crew(), []
    stop = crew.event()

    def work(number):
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three") as caught:
        results.extend(results_of(crew, work, range(1000), stop))
    assert len(results) <= 3
    assert stop.is_set()
    if isinstance(crew, Processes):
        assert "in work" in str(caught.value.__cause__)


@pytest.mark.parametrize("crew", SEVERAL)
def test_it_is_left_when_no_worker_is_at_work_any_more(crew):
    crew = crew()
    stop, ended = crew.event(), multiprocessing.get_context("fork").Value("i", 0)

    def work(number):
        if number:
            while not stop.is_set():
                time.sleep(0.001)
            with ended.get_lock():
                ended.value += 1
        return number

    results = results_of(crew, work, range(1000), stop)
    assert next(results) == 0
    time.sleep(0.1)
    results.close()
    assert 1 <= ended.value <= 2
    assert multiprocessing.active_children() == []


@linux
def test_a_process_that_dies_loses_one_thing_and_another_takes_its_place():
    def work(number):
        if number in (3, 4, 9):
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    expected = [f"lost {n}" if n in (3, 4, 9) else n for n in range(12)]
    assert list(results_of(Processes(2), work, range(12))) == expected


@linux
def test_a_process_that_dies_while_it_looks_whether_to_stop_does_not_keep_the_others_from_it():
    crew = Processes(2)
    stop = crew.event()

    def work(number):
        if number < 8:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
            while not stop.is_set():
                pass
        return stop.is_set()

    watch = threading.Timer(60, os.kill, (os.getpid(), signal.SIGINT))  # where it hangs
    watch.start()
    assert list(results_of(crew, work, range(10), stop)) == [f"lost {n}" for n in range(8)] + [False, False]
    watch.cancel()


@linux
@pytest.mark.parametrize("n_workers", [3, 2], ids=["at first", "a successor"])
def test_ctrl_c_while_processes_are_made_leaves_none(monkeypatch, n_workers):
    crew, made = Processes(n_workers), []
    new_worker = crew._new_worker

    def interrupted():
        made.append(new_worker())
        if len(made) == 5 - n_workers:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return made[-1]

    monkeypatch.setattr(crew, "_new_worker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(results_of(crew, lambda number: os.kill(os.getpid(), signal.SIGKILL), range(9)))
    assert 2 <= len(made) <= 3
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("crew", CREWS)
def test_a_crew_that_cannot_start_leaves_nothing_behind(monkeypatch, crew):
    crew, stop = crew(), threading.Event()
    usual = crew.start

    def start(work, lost):
        usual(work, lost)
        raise OSError("no more processes")

    monkeypatch.setattr(crew, "start", start)
    with pytest.raises(OSError, match="no more processes"):
        list(results_of(crew, str, range(3), stop))
    assert stop.is_set()
    assert multiprocessing.active_children() == []


@linux
def test_processes_end_with_the_one_they_were_made_by():
    maker, own = multiprocessing.get_context("fork").Pipe()

    def make():
        crew = Processes(2)
        results = results_of(crew, lambda _: os.getpid(), range(1000))
        own.send(sorted({next(results) for _ in range(20)}))
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=make)
    process.start()
    workers = maker.recv()
    process.join()
    for _ in range(1000):
        if not [worker for worker in workers if at_work(worker)]:
            return
        time.sleep(0.01)
    raise AssertionError("a process is left")


def at_work(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # ended, though nobody has asked how
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_all_is_for_the_first_process_alone(number):
    def work(_):
        os.kill(os.getpid(), number)
        return "unharmed"

    assert list(results_of(Processes(2), work, range(4))) == ["unharmed"] * 4


@linux
def test_work_is_asked_to_stop_when_nobody_is_left_to_hear_of_it():
    hearing, speaking = multiprocessing.get_context("fork").Pipe()

    def work(stop, _):
        speaking.send("begun")
        for _ in range(20_000):
            if stop.is_set():
                speaking.send("stopped")
                return
            time.sleep(0.001)

    def make():
        crew = Processes(1)
        stop = crew.event()
        list(results_of(crew, partial(work, stop), [0], stop))

    process = multiprocessing.get_context("fork").Process(target=make)
    process.start()
    assert hearing.poll(20)
    assert hearing.recv() == "begun"
    assert not hearing.poll(0.1)
    process.kill()
    process.join()
    assert hearing.poll(20)
    assert hearing.recv() == "stopped"


@linux
def test_an_answer_that_nobody_reads_any_more_is_no_error(capfd):
    def work(number):
        time.sleep(0.1 * number)
        return number

    results = results_of(Processes(2), work, range(2))
    assert next(results) == 0
    time.sleep(0.3)  # the other answer is in the pipe now
    results.close()
    assert capfd.readouterr().err == ""


@linux
def test_what_was_printed_before_is_not_printed_again(capfd):
    print("once")
    list(results_of(Processes(2), str, range(4)))
    sys.stdout.flush()
    assert capfd.readouterr().out.count("once") == 1
