import itertools
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import typer

from gpukmeans_cli.system import rank_store as module
from gpukmeans_cli.system.rank_env import RankEnv, RankError
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore, raise_on_all_ranks, rank_store, warn_once


@pytest.fixture
def store():
    return dist.HashStore()


@pytest.fixture
def on_ranks(store):
    """A function that runs `work` on `size` ranks, which are threads here. Gives the results, or errors, by rank."""

    def on_ranks(size, work):
        start = str(next(starts))  # so that keys of one call of on_ranks differ from those of another

        def run_rank(rank):
            try:
                return work(RankStore(RankEnv(rank=rank, size=size), dist.PrefixStore(start, store)))
            except Exception as error:
                return error

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(run_rank, range(size), timeout=60))

    starts = itertools.count()
    return on_ranks


def test_rank_0_gathers_the_values_of_all_ranks_in_rank_order(on_ranks):
    gathered = on_ranks(3, lambda ranks: (ranks.gather(ranks.env.rank), ranks.gather("again")))
    assert gathered == [([0, 1, 2], ["again"] * 3), (None, None), (None, None)]


def test_rank_0_broadcasts_its_value_to_all_ranks(on_ranks):
    assert on_ranks(3, lambda ranks: ranks.broadcast(torch.arange(2) + ranks.env.rank).tolist()) == [[0, 1]] * 3
    assert on_ranks(2, lambda ranks: ranks.broadcast(None)) == [None, None]


def test_all_ranks_gather_the_values_of_all_ranks(on_ranks):
    assert on_ranks(3, lambda ranks: ranks.all_gather(ranks.env.rank)) == [[0, 1, 2]] * 3


def test_a_value_above_the_limit_of_the_store_is_sent_in_chunks_that_are_deleted_later(on_ranks, store, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 100)
    data = bytes(range(256)) * 3
    assert on_ranks(2, lambda ranks: ranks.gather(data))[0] == [data, data]
    assert store.num_keys() == 1


def test_a_single_process_needs_no_store():
    ranks = RankStore(RankEnv())
    assert (ranks.gather(1), ranks.broadcast(2), ranks.all_gather(3)) == ([1], 2, [3])
    ranks.abort()


def test_an_aborted_rank_is_not_waited_for_but_its_earlier_values_arrive(on_ranks):
    def work(ranks):
        if ranks.env.is_main:
            aborted.wait(30)
            gathered.extend(ranks.gather("first"))
            ranks.gather("second")
        ranks.gather("first")
        ranks.abort()
        aborted.set()

    aborted, gathered = threading.Event(), []
    error, _ = on_ranks(2, work)
    assert gathered == ["first", "first"]
    assert isinstance(error, RankError)
    assert str(error) == "rank 1 ended before the others, which cannot continue"


def test_a_store_that_cannot_be_reached_is_a_rank_error():
    class LostStore:
        def check(self, keys):
            raise dist.DistNetworkError("failed to recv, got 0 bytes")

    with pytest.raises(RankError, match="the other ranks cannot be reached any more"):
        RankStore(RankEnv(rank=1, size=2), LostStore()).broadcast(None)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_interrupts_a_rank_that_waits(store):
    timer = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        RankStore(RankEnv(rank=1, size=2), store).broadcast(None)
    timer.join()


def test_a_wrong_argument_on_one_rank_is_a_typer_exception_on_all_ranks(on_ranks):
    def errors(*failing):
        def work(ranks):
            with raise_on_all_ranks(ranks):
                if ranks.env.rank in failing:
                    raise typer.TyperException("--device cuda:1: there is none")

        return [error and (type(error), error.format_message()) for error in on_ranks(3, work)]

    assert errors() == [None] * 3
    assert errors(1, 2) == [(typer.TyperException, "rank 1: --device cuda:1: there is none")] * 3
    assert errors(0, 2) == [(typer.TyperException, "--device cuda:1: there is none")] * 3


@pytest.fixture
def ranks_of_threads(monkeypatch, store):
    """Makes ranks of one run threads of this process."""
    monkeypatch.setattr(module, "_all_ranks", lambda env: RankStore(env, store))


@pytest.mark.usefixtures("ranks_of_threads")
def test_ranks_exit_together_and_rank_0_exits_last():
    def work(rank):
        with rank_store(RankEnv(rank=rank, size=3)):
            if rank == 0:
                may_exit.wait(30)
        exited.append(rank)

    may_exit, exited = threading.Event(), []
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, rank) for rank in range(3)]
        assert not exited
        may_exit.set()
        for future in done:
            future.result(30)
    assert exited[2] == 0


@pytest.mark.usefixtures("ranks_of_threads")
@pytest.mark.parametrize("end", [ZeroDivisionError, KeyboardInterrupt])
def test_a_rank_that_fails_or_is_interrupted_exits_at_once_and_the_others_raise(end):
    with pytest.raises(end), rank_store(RankEnv(rank=1, size=2)):
        raise end
    with pytest.raises(RankError, match="rank 1 ended"), rank_store(RankEnv(rank=0, size=2)):
        pass


@pytest.mark.usefixtures("ranks_of_threads")
def test_an_error_of_all_ranks_is_printed_once_before_any_rank_continues(monkeypatch):
    def work(rank):
        warn_once("wrong")
        return list(warned)

    warned, envs = [], iter(RankEnv(rank=rank, size=3) for rank in range(3))
    monkeypatch.setattr(module, "rank_env", lambda: next(envs))
    monkeypatch.setattr(module, "warn", warned.append)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3), timeout=60)) == [["wrong"]] * 3


def test_an_error_is_printed_even_if_the_rank_variables_are_invalid(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "7")
    warn_once("wrong")
    assert capsys.readouterr().err == "gpukmeans: wrong\n"


def test_ranks_without_a_master_address_are_an_error(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(RankError, match=r"the ranks cannot connect .*MASTER_ADDR.*; start them by torchrun"),
        rank_store(RankEnv(rank=0, size=2)),
    ):
        pass


@pytest.mark.parametrize(
    ("failing", "sentence"), [({0, 1, 2}, "no file"), ({1}, "rank 1: no file"), ({1, 2}, "rank 1: no file")]
)
def test_a_failure_on_one_rank_is_raised_on_all_ranks_in_one_sentence(on_ranks, failing, sentence):
    def work(ranks):
        with raise_on_all_ranks(ranks, OSError, ValueError):
            if ranks.env.rank in failing:
                raise OSError("no file")
        return "went on"

    results = on_ranks(3, work)
    assert [type(result) for result in results] == [CollectiveError] * 3
    assert [str(result) for result in results] == [sentence] * 3


def test_work_continues_if_no_rank_fails(on_ranks):
    def work(ranks):
        with raise_on_all_ranks(ranks, OSError):
            pass
        return ranks.env.rank

    assert on_ranks(2, work) == [0, 1]


def test_an_error_that_is_not_listed_is_raised_unchanged():
    with pytest.raises(KeyboardInterrupt), raise_on_all_ranks(RankStore(RankEnv()), OSError):
        raise KeyboardInterrupt
