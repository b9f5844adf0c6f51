"""K-means by loops in float64, slow and plain. Shares no line with the package and none of its tricks."""


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


def lloyd(points, weights, centers, rounds):
    """Centers after this many rounds, with labels and inertia there. An empty cluster takes the worst-served point."""
    centers = [[float(value) for value in center] for center in centers]
    for _ in range(rounds):
        found = nearest(points, centers)
        totals = [0.0] * len(centers)
        sums = [[0.0] * len(center) for center in centers]
        for point, weight, (label, _distance) in zip(points, weights, found, strict=True):
            totals[label] += float(weight)
            for axis, value in enumerate(point):
                sums[label][axis] += float(weight) * float(value)
        centers = [
            [value / total for value in row] if total else center
            for row, total, center in zip(sums, totals, centers, strict=True)
        ]
        served = [distance if weight else -1 for (_, distance), weight in zip(found, weights, strict=True)]
        if 0.0 in totals and max(served) > 0:
            centers[totals.index(0.0)] = [float(value) for value in points[served.index(max(served))]]
    found = nearest(points, centers)
    inertia = sum(float(weight) * distance for weight, (_, distance) in zip(weights, found, strict=True))
    return centers, [label for label, _ in found], inertia
