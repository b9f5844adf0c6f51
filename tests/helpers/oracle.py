"""K-means as plain loops in float64, without code of the package."""

import itertools
import math


def sqdist(point, center):
    """Squared Euclidean distance of two sequences of numbers."""
    return sum((float(a) - float(b)) ** 2 for a, b in zip(point, center, strict=True))


def nearest(points, centers):
    """Index of the first nearest center of each point, and the squared distance to it."""
    found = []
    for point in points:
        distances = [sqdist(point, center) for center in centers]
        best = min(distances)
        found.append((distances.index(best), best))
    return found


def sums(points, weights, labels, k):
    """Total weights of the k clusters, and the weighted sums of their points."""
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
    """Mean of each of k clusters; None for a cluster of weight 0."""
    found = zip(*sums(points, weights, labels, k), strict=True)
    return [[value / total for value in row] if total else None for total, row in found]


def directions(points, weights, labels, k):
    """Direction of the sum of each of k clusters of unit vectors, as a unit vector; None for a cluster of weight 0."""
    found = zip(*sums(points, weights, labels, k), strict=True)
    return [unit(row) if total else None for total, row in found]


def unit(point):
    """The point divided by its norm."""
    length = math.hypot(*(float(value) for value in point))
    return [float(value) / length for value in point]


def equal_rows(points, row):
    """Numbers of all points equal to the point `row`, including `row`."""
    return [other for other, point in enumerate(points) if list(point) == list(points[row])]


def can_move(points, weights, labels, row, n_fixed=0):
    """Whether a relocation may move the points equal to the point `row`.

    One of these points must have positive weight. Their cluster must keep another point of positive weight, unless it
    is one of the first `n_fixed` clusters.
    """
    equal = equal_rows(points, row)
    left = [w for other, w in enumerate(weights) if labels[other] == labels[row] and other not in equal]
    return any(weights[other] for other in equal) and (any(left) or labels[row] < n_fixed)


def relocated(points, weights, centers, n_fixed=0):
    """Labels after each empty cluster, except the first `n_fixed`, has got the worst-served points that can move.

    The worst-served points are farthest from their nearest center.
    """
    found = nearest(points, centers)
    labels = [label for label, _ in found]
    used = {label for label, weight in zip(labels, weights, strict=True) if weight}
    empty = [cluster for cluster in range(n_fixed, len(centers)) if cluster not in used]
    for row in sorted(range(len(points)), key=lambda row: -found[row][1]):
        if empty and found[row][1] > 0 and weights[row] and can_move(points, weights, labels, row, n_fixed):
            cluster = empty.pop(0)
            for other in equal_rows(points, row):
                labels[other] = cluster
    return labels


def move(points, weights, centers, middles=means):
    """Centers after one iteration. Empty clusters move to the worst-served points, or stay if no point can move."""
    moved = middles(points, weights, relocated(points, weights, centers), len(centers))
    return [center if middle is None else middle for middle, center in zip(moved, centers, strict=True)]


def inertia(points, weights, centers):
    """Sum of weight times squared distance to the nearest center."""
    found = nearest(points, centers)
    return math.fsum(float(weight) * distance for weight, (_, distance) in zip(weights, found, strict=True))


def path(points, weights, centers, n_iter, middles=means):
    """Centers before the first iteration and after each. For spherical K-means `middles` is `directions`."""
    found = [[[float(value) for value in center] for center in centers]]
    for _ in range(n_iter):
        found.append(move(points, weights, found[-1], middles))
    return found


def lloyd(points, weights, centers, n_iter):
    """Centers after this many iterations, with their labels and inertia."""
    centers = path(points, weights, centers, n_iter)[-1]
    return centers, [label for label, _ in nearest(points, centers)], inertia(points, weights, centers)


def is_decided(points, weights, centers, gap, step):
    """Whether rounding cannot change labels of points of positive weight, or the points that empty clusters get.

    Squared distances must differ by more than `gap` times the larger one plus `step` squared.
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
    worst = sorted([0.0, *(distance for distance, _ in served)])[-len(centers) - 1 :]
    return len(labels) == len(centers) or all(differ(less, more) for less, more in itertools.pairwise(worst))
