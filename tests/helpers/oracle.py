"""K-means by loops in float64, slow and plain. Shares no line with the package and none of its tricks."""

import math


def sqdist(point, center):
    """Squared distance of two sequences of numbers."""
    return sum((float(a) - float(b)) ** 2 for a, b in zip(point, center, strict=True))


def nearest(points, centers):
    """For each point the index of the first nearest center and the squared distance."""
    found = []
    for point in points:
        distances = [sqdist(point, center) for center in centers]
        best = min(distances)
        found.append((distances.index(best), best))
    return found


def sums(points, weights, labels, k):
    """Weight of each of k clusters, and the weighted sum of its points."""
    members = [
        [(float(weight), point) for point, weight, label in zip(points, weights, labels, strict=True) if label == j]
        for j in range(k)
    ]
    totals = [math.fsum(weight for weight, _ in member) for member in members]
    width = len(points[0])
    return totals, [
        [math.fsum(weight * float(point[axis]) for weight, point in member) for axis in range(width)]
        for member in members
    ]


def means(points, weights, labels, k):
    """Mean of each of k clusters; None for one of no weight."""
    found = zip(*sums(points, weights, labels, k), strict=True)
    return [[value / total for value in row] if total else None for total, row in found]


def directions(points, weights, labels, k):
    """Unit vector along the weighted sum of each of k clusters of unit vectors; None for one of no weight."""
    found = zip(*sums(points, weights, labels, k), strict=True)
    return [unit(row) if total else None for total, row in found]


def unit(point):
    """The point at length 1."""
    length = math.hypot(*(float(value) for value in point))
    return [float(value) / length for value in point]


def move(points, weights, centers, middles=means):
    """Centers after one round. The first empty cluster takes the worst-served point, other empty ones stay."""
    found = nearest(points, centers)
    moved = middles(points, weights, [label for label, _ in found], len(centers))
    served = [distance if weight else -1 for (_, distance), weight in zip(found, weights, strict=True)]
    if None in moved and max(served) > 0:
        moved[moved.index(None)] = [float(value) for value in points[served.index(max(served))]]
    return [center if middle is None else middle for middle, center in zip(moved, centers, strict=True)]


def inertia(points, weights, centers):
    """Sum of weight times squared distance to the nearest center."""
    found = nearest(points, centers)
    return math.fsum(float(weight) * distance for weight, (_, distance) in zip(weights, found, strict=True))


def path(points, weights, centers, rounds, middles=means):
    """Centers before the first round and after each of this many; by `directions` of rows of length 1 on the sphere."""
    found = [[[float(value) for value in center] for center in centers]]
    for _ in range(rounds):
        found.append(move(points, weights, found[-1], middles))
    return found


def lloyd(points, weights, centers, rounds):
    """Centers after this many rounds, with labels and inertia there. An empty cluster takes the worst-served point."""
    centers = path(points, weights, centers, rounds)[-1]
    return centers, [label for label, _ in nearest(points, centers)], inertia(points, weights, centers)


def is_decided(points, weights, centers, gap, step):
    """Whether no label of a point of weight, and no worst-served point that is needed, hangs on rounding.

    Squared distances must differ by more than the share `gap` of the larger one and by more than `step` squared.
    """

    def differ(less, more):
        return more - less > gap * more + step**2

    present = [point for point, weight in zip(points, weights, strict=True) if weight]
    served = set()
    for point in present:
        first, *others = sorted(sqdist(point, center) for center in centers)
        if others and not differ(first, others[0]):
            return False
        served.add((first, tuple(point)))
    labels = {label for label, _ in nearest(present, centers)}
    less, more = sorted([0.0, *(distance for distance, _ in served)])[-2:]
    return len(labels) == len(centers) or differ(less, more)
