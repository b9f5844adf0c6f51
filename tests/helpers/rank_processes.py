"""Ranks that are processes, connected by gloo."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# Forked from a process that has imported torch, so that a rank starts in milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["helpers.rank_processes", "gpukmeans"])


def on_ranks(n, function, *args, timeout=60.0, killed=()):
    """The result of `function(group, *args)` on each of n ranks, or its exception; None for the ranks in `killed`."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_context.Pipe(duplex=False) for _ in range(n)]
        ranks = [
            _context.Process(target=_run, args=(rank, n, folder, timeout, pipes[rank][1], function, args), daemon=True)
            for rank in range(n)
        ]
        for rank, (_, writer) in zip(ranks, pipes, strict=True):
            rank.start()
            writer.close()
        try:
            return [None if rank in killed else _result(reader, ranks[rank]) for rank, (reader, _) in enumerate(pipes)]
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()


def _result(reader, rank):
    assert reader.poll(100), f"{rank.name} sent no result for 100 s"
    return pickle.loads(reader.recv_bytes())


def _run(rank, n, folder, timeout, writer, function, args):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores the signal
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(Path(folder, "store")), n)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=timedelta(seconds=timeout))
    try:
        result = function(dist.group.WORLD, *args)
    except Exception as error:
        error.add_note(traceback.format_exc()) if hasattr(error, "add_note") else None
        result = error
    writer.send_bytes(pickle.dumps(result))
    dist.destroy_process_group()
