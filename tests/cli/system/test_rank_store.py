import itertools
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import typer

from gpukmeans_cli.system import rank_store as room
from gpukmeans_cli.system.rank_env import Place, RankError
from gpukmeans_cli.system.rank_store import Meeting, SharedError, agreed, meeting, warn_once


@pytest.fixture
def store():
    return dist.HashStore()


@pytest.fixture
def together(store):
    """What `work` gives for each of so many ranks, which are threads here; what it raises, it gives."""

    def together(size, work):
        start = str(next(starts))  # calls are counted from here on

        def one(rank):
            try:
                return work(Meeting(Place(rank=rank, size=size), dist.PrefixStore(start, store)))
            except Exception as error:
                return error

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size), timeout=60))

    starts = itertools.count()
    return together


def test_what_ranks_give_comes_to_the_first_in_their_order(together):
    given = together(3, lambda ranks: (ranks.gather(ranks.place.rank), ranks.gather("again")))
    assert given == [([0, 1, 2], ["again"] * 3), (None, None), (None, None)]


def test_what_the_first_gives_comes_to_all(together):
    assert together(3, lambda ranks: ranks.share(torch.arange(2) + ranks.place.rank).tolist()) == [[0, 1]] * 3
    assert together(2, lambda ranks: ranks.share(None)) == [None, None]


def test_all_can_know_what_all_gave(together):
    assert together(3, lambda ranks: ranks.all(ranks.place.rank)) == [[0, 1, 2]] * 3


def test_what_is_larger_than_the_store_takes_goes_in_parts_and_does_not_stay_there(together, store, monkeypatch):
    monkeypatch.setattr(room, "_MOST_AT_A_TIME", 100)
    data = bytes(range(256)) * 3
    assert together(2, lambda ranks: ranks.gather(data))[0] == [data, data]
    assert store.num_keys() == 1


def test_one_alone_sends_nothing():
    ranks = Meeting(Place())
    assert (ranks.gather(1), ranks.share(2), ranks.all(3)) == ([1], 2, [3])
    ranks.desert()


def test_a_rank_that_left_is_not_waited_for_but_what_it_gave_before_counts(together):
    def work(ranks):
        if ranks.place.leads:
            left.wait(30)
            given.extend(ranks.gather("here"))
            ranks.gather("and here")
        ranks.gather("here")
        ranks.desert()
        left.set()

    left, given = threading.Event(), []
    error, _ = together(2, work)
    assert given == ["here", "here"]
    assert isinstance(error, RankError)
    assert str(error) == "rank 1 has ended before the others, which cannot go on"


def test_a_store_that_is_gone_is_a_sentence():
    class Gone:
        def check(self, keys):
            raise dist.DistNetworkError("failed to recv, got 0 bytes")

    with pytest.raises(RankError, match="the other ranks cannot be reached any more"):
        Meeting(Place(rank=1, size=2), Gone()).share(None)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_is_heard_by_one_who_waits(store):
    timer = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Meeting(Place(rank=1, size=2), store).share(None)
    timer.join()


def test_arguments_that_one_rank_cannot_mean_are_an_error_on_all(together):
    def errors(*bad):
        def work(ranks):
            with agreed(ranks):
                if ranks.place.rank in bad:
                    raise typer.TyperException("--device cuda:1: there is none")

        return [error and (type(error), error.format_message()) for error in together(3, work)]

    assert errors() == [None] * 3
    assert errors(1, 2) == [(typer.TyperException, "rank 1: --device cuda:1: there is none")] * 3
    assert errors(0, 2) == [(typer.TyperException, "--device cuda:1: there is none")] * 3


@pytest.fixture
def ranks_of_threads(monkeypatch, store):
    """Processes that meet are threads here."""
    monkeypatch.setattr(room, "_all_ranks", lambda place: Meeting(place, store))


@pytest.mark.usefixtures("ranks_of_threads")
def test_ranks_leave_together_and_the_first_is_the_last():
    def work(rank):
        with meeting(Place(rank=rank, size=3)):
            if rank == 0:
                may_leave.wait(30)
        left.append(rank)

    may_leave, left = threading.Event(), []
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, rank) for rank in range(3)]
        assert not left
        may_leave.set()
        for each in done:
            each.result(30)
    assert left[2] == 0


@pytest.mark.usefixtures("ranks_of_threads")
@pytest.mark.parametrize("end", [ZeroDivisionError, KeyboardInterrupt])
def test_a_rank_that_fails_or_is_interrupted_leaves_at_once_and_others_know(end):
    with pytest.raises(end), meeting(Place(rank=1, size=2)):
        raise end
    with pytest.raises(RankError, match="rank 1 has ended"), meeting(Place(rank=0, size=2)):
        pass


@pytest.mark.usefixtures("ranks_of_threads")
def test_what_ends_all_is_printed_once_before_any_goes_on(monkeypatch):
    def work(rank):
        warn_once("wrong")
        return list(warned)

    warned, places = [], iter(Place(rank=rank, size=3) for rank in range(3))
    monkeypatch.setattr(room, "place", lambda: next(places))
    monkeypatch.setattr(room, "warn", warned.append)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3), timeout=60)) == [["wrong"]] * 3


def test_where_there_is_no_place_it_is_printed_all_the_same(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "7")
    warn_once("wrong")
    assert capsys.readouterr().err == "gpukmeans: wrong\n"


def test_ranks_that_nobody_tells_where_to_meet_are_an_error(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(RankError, match=r"the ranks cannot meet .*MASTER_ADDR.*; start them by torchrun"),
        meeting(Place(rank=0, size=2)),
    ):
        pass


@pytest.mark.parametrize(
    ("failing", "sentence"), [({0, 1, 2}, "no file"), ({1}, "rank 1: no file"), ({1, 2}, "rank 1: no file")]
)
def test_work_that_fails_on_one_rank_has_failed_on_all_in_one_sentence(together, failing, sentence):
    def work(ranks):
        with room.together(ranks, OSError, ValueError):
            if ranks.place.rank in failing:
                raise OSError("no file")
        return "went on"

    results = together(3, work)
    assert [type(result) for result in results] == [SharedError] * 3
    assert [str(result) for result in results] == [sentence] * 3


def test_work_that_goes_well_on_all_goes_on(together):
    def work(ranks):
        with room.together(ranks, OSError):
            pass
        return ranks.place.rank

    assert together(2, work) == [0, 1]


def test_what_is_no_failure_of_the_work_is_raised_as_it_is():
    with pytest.raises(KeyboardInterrupt), room.together(Meeting(Place()), OSError):
        raise KeyboardInterrupt
