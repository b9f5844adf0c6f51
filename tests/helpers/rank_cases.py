"""Functions that tests run on each rank. The processes of the ranks import this module.

Functions with the argument `bounds` give rank r the rows from bounds[r] to bounds[r + 1].
"""

import copy
import itertools
import os
import pickle
import signal
import time

import torch
import torch.distributed as dist

from gpukmeans import Batches, Checkpoint, KMeans, kmeans
from gpukmeans.engines.plain import BoundPlainEngine, PlainEngine
from gpukmeans.points.communicator import Communicator, ProcessGroupCommunicator


def points(n, width, kind, seed=0):
    """Points (n, width) in overlapping clusters, and weights: "none", "integers" or "floats", a fifth of them 0."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(7, width, generator=generator) * 4
    x = means[torch.randint(7, (n,), generator=generator)] + torch.randn(n, width, generator=generator)
    weights = torch.rand(n, generator=generator).mul_(torch.arange(n) % 5 > 0)
    return x, {"none": None, "integers": weights.mul(9).ceil().long(), "floats": weights}[kind]


def batches_of(x, weights, size):
    """The points in batches of `size` rows, with their weights if there are any."""
    rows = [slice(start, start + size) for start in range(0, len(x), size)]
    batches = [x[batch] if weights is None else (x[batch], weights[batch]) for batch in rows]
    return Batches(batches, weighted=weights is not None)


def with_far_centers(width, kind):
    """Points, some equal, weights of a `kind` as in `points`, and 12 initial centers, most far from all points."""
    x, weights = points(120, width, kind)
    x[60:90] = x[:30]
    return x, weights, torch.cat([x[:3], torch.arange(9.0)[:, None].expand(9, width) + 500])


def fit_with_far_centers(group, bounds, width, kind):
    x, weights, centers = with_far_centers(width, kind)
    rows = slice(*bounds[group.rank() : group.rank() + 2])
    weights = None if weights is None else weights[rows]
    return as_arrays(kmeans(x[rows], 12, weights=weights, init=centers, max_iter=3, group=group))


def as_arrays(result):
    """The fields of a result, with NumPy arrays instead of tensors, to send to other processes."""
    return {name: None if value is None else value.numpy() for name, value in vars(result).items()}


def fit(group, bounds, points_args, options):
    """The clustering of the points of all ranks."""
    x, weights = points(*points_args)
    rows = slice(*bounds[group.rank() : group.rank() + 2])
    return as_arrays(kmeans(x[rows], weights=None if weights is None else weights[rows], group=group, **options))


def communicate(group):
    ranks = ProcessGroupCommunicator(group)
    rank = ranks.rank
    largest = ranks.all_reduce_max("a test", torch.tensor([float(rank), -float(rank)]))
    return {
        "rank": rank,
        "communicator": isinstance(ranks, Communicator),
        "all_gather": [int(value) for value in ranks.all_gather("a test", lambda: torch.tensor(rank))],
        "all_reduce_sum": ranks.all_reduce_sum(
            "a test", torch.zeros(2), lambda: torch.tensor([rank, 10 * rank])
        ).tolist(),
        "all_reduce_max": largest.tolist(),
    }


def fail(group, call):
    ranks = ProcessGroupCommunicator(group)

    def work():
        if ranks.rank:
            raise ValueError(f"{ranks.rank} is wrong")
        return torch.zeros(1)

    if call == "all_gather":
        return ranks.all_gather("a test", work)
    return ranks.all_reduce_sum("a test", torch.zeros(1), work)


def fail_with_key_error(group):
    ranks = ProcessGroupCommunicator(group)
    return ranks.all_gather("a test", lambda: {0: "here"}[ranks.rank])


def die(group):
    ranks = ProcessGroupCommunicator(group)
    ranks.all_gather("a first test", lambda: None)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.all_reduce_sum("the sum of tests", torch.zeros(1), lambda: torch.zeros(1))


def arrive_late(group):
    ranks = ProcessGroupCommunicator(group)
    if ranks.rank:
        time.sleep(3)
        return None
    return ranks.all_gather("a late test", lambda: None)


def stream(group, bounds, points_args, size, options):
    """The clustering as in `fit`, from streams of batches of `size` rows. The last rank has a tensor instead."""
    x, weights = points(*points_args)
    rows = slice(*bounds[group.rank() : group.rank() + 2])
    x, weights = x[rows], None if weights is None else weights[rows]
    if group.rank() < group.size() - 1:
        return as_arrays(kmeans(batches_of(x, weights, size), group=group, **options))
    return as_arrays(kmeans(x, weights=weights, group=group, **options))


def fit_wrongly(group, what):
    """A call of `kmeans` that is wrong on rank 1 only, or differs between ranks. `what` names the mistake."""
    x, _ = points(40, 3, "none")
    options = {"n_clusters": 3}
    if group.rank() == 1:
        change = {
            "nan": lambda: x.fill_(torch.nan),
            "n_clusters": lambda: options.update(n_clusters=4),
            "init": lambda: options.update(init="random"),
            "type": lambda: options.update(n_clusters=2.5),
            "iterator": lambda: None,
            "later pass": lambda: None,
        }
        if what in change:
            change[what]()
        x = {"width": x[:, :2], "dtype": x.double(), "iterator": iter([x]), "batch": x[None]}.get(what, x)
    if group.rank() == 1:
        if what == "weights":
            options["weights"] = torch.ones(40)
        if what.startswith("engine"):
            options["engine"] = "fast"
        if what == "assign":
            options["engine"] = OutOfMemory()
    if what == "engine without rows" and group.rank() == 1:
        x = []
    if what == "fixed":
        options["fixed"] = x[:1].tolist() if group.rank() == 1 else x[:1]
    if what == "init shape":
        options["init"] = x[: 3 - group.rank() % 2]
    if what == "init raises":
        key = "mine" if group.rank() == 1 else "others"
        options["init"] = lambda points, k, generator: {"others": x[:3]}[key]
    if what == "later pass":
        x = Failing(x, group.rank() == 1)
    return as_arrays(kmeans(x, group=group, **options))


class OutOfMemory(PlainEngine):
    """An engine that runs out of memory."""

    def bind(self, x, weights):
        return BoundOutOfMemory(**vars(super().bind(x, weights)))


class BoundOutOfMemory(BoundPlainEngine):
    def assign(self, centers, problems):
        raise MemoryError("no memory for labels")


class Failing:
    """A stream whose 12th pass fails, if `fails`."""

    def __init__(self, x, fails):
        self.x, self.fails, self.n_read = x, fails, 0

    def __iter__(self):
        self.n_read += 1
        if self.fails and self.n_read == 12:
            raise OSError("the disk is gone")
        return iter(self.x.split(10))


def fit_with_callback(group, with_callback, stops):
    """The result, and the calls of the callback that ranks in `with_callback` have.

    The callback ends the loop after the second iteration on ranks in `stops`.
    """
    x, _ = points(300, 3, "none")
    calls = []

    def callback(n_iter, inertia, shift):
        calls.append((n_iter, float(inertia), float(shift)))
        return group.rank() in stops and n_iter == 2

    rows = slice(150 * group.rank(), 150 * (group.rank() + 1))
    result = kmeans(x[rows], 5, group=group, callback=callback if group.rank() in with_callback else None)
    return as_arrays(result), calls


def start_by_function(group, n_clusters=4, refine=0):
    """A fit from initial centers of a function that returns different centers on each rank."""
    x, _ = points(300, 3, "none")
    rank = group.rank()
    rows = slice(150 * rank, 150 * (rank + 1))

    def function(points, k, generator):
        return x[30 * rank : 30 * rank + k]

    return as_arrays(kmeans(x[rows], n_clusters, group=group, init=function, refine=refine))


def sample_with_own_seed(group):
    """A fit with a generator that has a different seed on each rank."""
    x, _ = points(300, 3, "none")
    rank = group.rank()
    rows = slice(150 * rank, 150 * (rank + 1))
    return as_arrays(kmeans(x[rows], 4, group=group, generator=torch.Generator().manual_seed(5 + rank)))


def count_collectives(group, options):
    """The calls of collectives between each two consecutive iterations: name, operation and number of elements."""
    x, _ = points(300, 3, "none")
    calls, rounds = [], []
    for name in ("all_reduce", "all_gather_object"):
        plain = getattr(dist, name)

        def counted(*args, name=name, plain=plain, **more):
            op = more.get("op")
            calls.append((name, str(op), args[0].numel() if isinstance(args[0], torch.Tensor) else None))
            return plain(*args, **more)

        setattr(dist, name, counted)
    rows = slice(150 * group.rank(), 150 * (group.rank() + 1))

    def save(state):
        rounds.append(len(calls))

    kmeans(x[rows], 5, group=group, checkpoint=Checkpoint(save, 1), **options)
    return [calls[before:after] for before, after in itertools.pairwise(rounds)]


def save_and_resume(group, folder):
    """A run that resumes from a checkpoint of a single process."""
    x, _ = points(300, 3, "none")
    state = torch.load(f"{folder}/state.pt") if group.rank() == 0 else None  # only the state of rank 0 is used
    rows = slice(100 * group.rank(), 100 * group.rank() + (100 if group.rank() < 2 else 300))
    return as_arrays(kmeans(x[rows], 5, group=group, checkpoint=Checkpoint(lambda state: None, 3, state)))


def signal_in_a_round(group, number):
    """A fit in which rank 1 gets the signal `number` after the second iteration."""
    x, _ = points(300, 3, "none")
    rows = slice(100 * group.rank(), 100 * (group.rank() + 1))

    def callback(n_iter, inertia, shift):
        if group.rank() == 1 and n_iter == 2:
            os.kill(os.getpid(), number)

    return as_arrays(kmeans(x[rows].split(30), 5, group=group, callback=callback))


def sizes_of_objects():
    """A list to which each later `all_gather_object` appends the pickled size of its object in bytes."""
    sizes, plain = [], dist.all_gather_object

    def counted(gathered, value, **more):
        sizes.append(len(pickle.dumps(value)))
        return plain(gathered, value, **more)

    dist.all_gather_object = counted
    return sizes


def bytes_of_a_view(group):
    """The number of bytes that a rank sends for a view of 4 rows of a large tensor."""
    sizes = sizes_of_objects()
    x = torch.zeros(100_000, 3)
    ProcessGroupCommunicator(group).all_gather("a test", lambda: x[:4])
    return sizes[0]


def bytes_of_a_sample(group, n):
    """The largest number of bytes that a rank sends in one gather of a fit with n rows on each rank."""
    sizes = sizes_of_objects()
    x, _ = points(n, 3, "none", seed=group.rank())
    kmeans(x, 8, group=group, max_iter=1)
    return max(sizes)


def copy_a_module(group):
    """Whether a deep copy of a module fitted on ranks has equal centers, and whether it has no group."""
    x, _ = points(100, 3, "none")
    model = KMeans(3, group=group).fit(x)
    copied = copy.deepcopy(model)
    return torch.equal(copied.cluster_centers_, model.cluster_centers_), copied.group is None


def partial_fit(group, bounds, points_args, options):
    """The state after batches of 40 rows. The bounds are within each batch, and without a group all rows are used."""
    x, weights = points(*points_args)
    rows = slice(None) if group is None else slice(*bounds[group.rank() : group.rank() + 2])
    model = KMeans(group=group, **options)
    for start in range(0, len(x), 40):
        own = slice(start, start + 40)
        model.partial_fit(x[own][rows], None, None if weights is None else weights[own][rows])
    return {**{name: value.numpy() for name, value in model.state_dict().items()}, "inertia": model.inertia_}


def partial_fit_wrongly(group, what):
    """A call of `partial_fit` whose second batch, or state, is wrong on rank 1 only."""
    x, _ = points(40, 3, "none")
    model = KMeans(3, group=group).partial_fit(x)
    if group.rank() == 1 and what == "state":
        model.running_counts += 1
    return model.partial_fit([x] if group.rank() == 1 and what == "stream" else x)


def partial_fit_in_data_parallel(group):
    """The states after two batches, with the group and without, and a forward pass of `DistributedDataParallel`."""
    x, _ = points(120, 3, "none")
    states = []
    for own_group in (group, None):
        model = KMeans(3, group=own_group)
        model.partial_fit(x[:20] if group.rank() else x[20:40])
        parallel = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(3, 3), model))
        model.partial_fit(x[40:80] if group.rank() else x[80:])
        parallel(x)
        states.append({name: value.numpy() for name, value in model.state_dict().items()})
    return states
