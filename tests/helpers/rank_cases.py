"""What ranks do in tests. Here and not beside the tests, since other processes import it."""

import copy
import itertools
import os
import pickle
import signal
import time

import torch
import torch.distributed as dist

from gpukmeans import Checkpoint, KMeans, kmeans
from gpukmeans.engines.plain import BoundTorchEngine, TorchEngine
from gpukmeans.points.communicator import Company, Ranks


def points(n, width, kind, seed=0):
    """N points in clusters that overlap, with weights of that kind."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(7, width, generator=generator) * 4
    x = means[torch.randint(7, (n,), generator=generator)] + torch.randn(n, width, generator=generator)
    weights = torch.rand(n, generator=generator).mul_(torch.arange(n) % 5 > 0)
    return x, {"none": None, "integers": weights.mul(9).ceil().long(), "floats": weights}[kind]


def batches_of(x, weights, size):
    """So many of the points at a time, with their weights if they have some."""
    rows = [slice(start, start + size) for start in range(0, len(x), size)]
    return [x[part] if weights is None else (x[part], weights[part]) for part in rows]


def told(result):
    """A result without tensors, which processes can send."""
    return {name: None if value is None else value.numpy() for name, value in vars(result).items()}


def fit(group, bounds, form, options):
    """This rank's share of the points, the rows between its bounds, clustered with those of the others."""
    x, weights = points(*form)
    rows = slice(*bounds[group.rank() : group.rank() + 2])
    return told(kmeans(x[rows], weights=None if weights is None else weights[rows], group=group, **options))


def meet(group):
    ranks = Ranks(group)
    rank = ranks.rank
    return {
        "rank": rank,
        "company": isinstance(ranks, Company),
        "gathered": [int(value) for value in ranks.gather("a test", lambda: torch.tensor(rank))],
        "total": ranks.total("a test", torch.zeros(2), lambda: torch.tensor([rank, 10 * rank])).tolist(),
        "largest": ranks.largest("a test", torch.tensor([float(rank), -float(rank)])).tolist(),
    }


def fail(group, call):
    ranks = Ranks(group)

    def work():
        if ranks.rank:
            raise ValueError(f"{ranks.rank} is wrong")
        return torch.zeros(1)

    return ranks.gather("a test", work) if call == "gather" else ranks.total("a test", torch.zeros(1), work)


def fail_oddly(group):
    ranks = Ranks(group)
    return ranks.gather("a test", lambda: {0: "here"}[ranks.rank])


def die(group):
    ranks = Ranks(group)
    ranks.gather("a first test", lambda: None)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.total("the sum of tests", torch.zeros(1), lambda: torch.zeros(1))


def dawdle(group):
    ranks = Ranks(group)
    if ranks.rank:
        time.sleep(3)
        return None
    return ranks.gather("a late test", lambda: None)


def stream(group, bounds, form, size, options):
    """The same as `fit` of a stream of this rank's rows, by so many at a time; the last rank holds a tensor."""
    x, weights = points(*form)
    rows = slice(*bounds[group.rank() : group.rank() + 2])
    x, weights = x[rows], None if weights is None else weights[rows]
    if group.rank() < group.size() - 1:
        return told(kmeans(batches_of(x, weights, size), group=group, **options))
    return told(kmeans(x, weights=weights, group=group, **options))


def fit_wrongly(group, what):
    """A call that is wrong on rank 1 only."""
    x, _ = points(40, 3, "none")
    options = {"n_clusters": 3}
    if group.rank() == 1:
        change = {
            "nan": lambda: x.fill_(torch.nan),
            "n_clusters": lambda: options.update(n_clusters=4),
            "init": lambda: options.update(init="random"),
            "type": lambda: options.update(n_clusters=2.5),
            "iterator": lambda: None,
            "later": lambda: None,
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
            options["engine"] = Cramped()
    if what == "engine of none" and group.rank() == 1:
        x = []
    if what == "fixed":
        options["fixed"] = x[:1].numpy() if group.rank() == 1 else x[:1]
    if what == "init shape":
        options["init"] = x[: 3 - group.rank() % 2]
    if what == "init raises":
        own = "mine" if group.rank() == 1 else "others"
        options["init"] = lambda points, k, generator: {"others": x[:3]}[own]
    if what == "later":
        x = Failing(x, group.rank() == 1)
    return told(kmeans(x, group=group, **options))


class Cramped(TorchEngine):
    """An engine without room for what it finds."""

    def bind(self, x, weights):
        return BoundCramped(**vars(super().bind(x, weights)))


class BoundCramped(BoundTorchEngine):
    def assign(self, centers, problems):
        raise MemoryError("no room for labels")


class Failing:
    """A stream that cannot be read for the 12th time, if it is to fail."""

    def __init__(self, x, fails):
        self.x, self.fails, self.n_read = x, fails, 0

    def __iter__(self):
        self.n_read += 1
        if self.fails and self.n_read == 12:
            raise OSError("the disk is gone")
        return iter(self.x.split(10))


def listen(group, listening, stops):
    """Whose callback hears the rounds, and may end them after the second."""
    x, _ = points(300, 3, "none")
    heard = []

    def callback(n_iter, inertia, shift):
        heard.append((n_iter, float(inertia), float(shift)))
        return group.rank() in stops and n_iter == 2

    rows = slice(150 * group.rank(), 150 * (group.rank() + 1))
    result = kmeans(x[rows], 5, group=group, callback=callback if group.rank() in listening else None)
    return told(result), heard


def start_apart(group, n_clusters=4, refine=0):
    """First centers by a function that finds others on each rank."""
    x, _ = points(300, 3, "none")
    rank = group.rank()
    rows = slice(150 * rank, 150 * (rank + 1))

    def function(points, k, generator):
        return x[30 * rank : 30 * rank + k]

    return told(kmeans(x[rows], n_clusters, group=group, init=function, refine=refine))


def draw_apart(group):
    """Draws by a generator that has another seed on each rank."""
    x, _ = points(300, 3, "none")
    rank = group.rank()
    rows = slice(150 * rank, 150 * (rank + 1))
    return told(kmeans(x[rows], 4, group=group, generator=torch.Generator().manual_seed(5 + rank)))


def count_collectives(group, options):
    """How often each collective is called between two rounds."""
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

    def keep(state):
        rounds.append(len(calls))

    kmeans(x[rows], 5, group=group, checkpoint=Checkpoint(keep, 1), **options)
    return [calls[before:after] for before, after in itertools.pairwise(rounds)]


def save_and_resume(group, folder):
    """A run that goes on from a checkpoint which one process alone kept."""
    x, _ = points(300, 3, "none")
    state = torch.load(f"{folder}/state.pt") if group.rank() == 0 else None  # as that of the first rank counts
    rows = slice(100 * group.rank(), 100 * group.rank() + (100 if group.rank() < 2 else 300))
    return told(kmeans(x[rows], 5, group=group, checkpoint=Checkpoint(lambda state: None, 3, state)))


def end_in_a_round(group, number):
    """Where a signal ends rank 1 after the second round."""
    x, _ = points(300, 3, "none")
    rows = slice(100 * group.rank(), 100 * (group.rank() + 1))

    def callback(n_iter, inertia, shift):
        if group.rank() == 1 and n_iter == 2:
            os.kill(os.getpid(), number)

    return told(kmeans(x[rows].split(30), 5, group=group, callback=callback))


def sizes_of_objects():
    """A list that is told of how many bytes each gathering of objects sends from now on."""
    sizes, plain = [], dist.all_gather_object

    def counted(told, value, **more):
        sizes.append(len(pickle.dumps(value)))
        return plain(told, value, **more)

    dist.all_gather_object = counted
    return sizes


def send_a_part(group):
    """How many bytes are sent of 4 rows of many."""
    sizes = sizes_of_objects()
    x = torch.zeros(100_000, 3)
    Ranks(group).gather("a test", lambda: x[:4])
    return sizes[0]


def bytes_of_a_draw(group, n):
    """The most bytes that are sent at a time while first centers are drawn among n rows a rank."""
    sizes = sizes_of_objects()
    x, _ = points(n, 3, "none", seed=group.rank())
    kmeans(x, 8, group=group, max_iter=1)
    return max(sizes)


def copy_a_module(group):
    """Whether a module that was fitted on ranks has its centers in a copy, and the copy no group."""
    x, _ = points(100, 3, "none")
    model = KMeans(3, group=group).fit(x)
    copied = copy.deepcopy(model)
    return torch.equal(copied.cluster_centers_, model.cluster_centers_), copied.group is None
