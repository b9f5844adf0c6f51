"""A Triton kernel that merges pairs of clusters with the least increase of the inertia (Ward 1963).

Each operation is the same as in `gpukmeans.refinement.merge`, in float64 and rounded once, so results have the same
bits.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n_all", "n_clusters", "n_fixed"]


@triton.jit
@no_type_check
def _store_cheapest(
    costs, partners, first_row, centers, totals, alive, stale, n_all, n_fixed,
    width: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write the lowest cost of a merge, and the partner, of each stale cluster of a block of rows."""
    row = first_row + tl.arange(0, rows)
    is_stale = tl.load(stale + row, mask=row < n_all, other=0) != 0
    if tl.max(is_stale.to(tl.int32), 0) > 0:
        own = tl.load(totals + row, mask=is_stale, other=0)[:, None]
        lowest = tl.full((rows,), float("inf"), tl.float64)
        nearest = tl.zeros((rows,), tl.int32)
        for start in range(0, n_all, block):
            cluster = start + tl.arange(0, block)
            inside = cluster < n_all
            sqdist = tl.zeros((rows, block), tl.float64)
            for channel in tl.static_range(width):
                of_row = tl.load(centers + row * width + channel, mask=is_stale, other=0)
                of_cluster = tl.load(centers + cluster * width + channel, mask=inside, other=0)
                difference = of_row[:, None] - of_cluster[None, :]
                sqdist = sqdist + difference * difference
            other = tl.load(totals + cluster, mask=inside, other=0)[None, :]
            total = own + other
            is_positive = total > 0
            cost = tl.where(is_positive, own * other / tl.where(is_positive, total, 1) * sqdist, 0.0)
            # The total of a fixed cluster is infinite.
            lighter = tl.minimum(own, other)
            cost = tl.where(total < float("inf"), cost, lighter * sqdist)
            is_alive = tl.load(alive + cluster, mask=inside, other=0)[None, :] != 0
            refused = (lighter == float("inf")) | (is_alive == 0) | (row[:, None] == cluster[None, :])
            cost = tl.where(refused, float("inf"), cost)
            block_lowest, block_nearest = tl.min(cost, 1, return_indices=True)
            is_lower = block_lowest < lowest
            nearest = tl.where(is_lower, start + block_nearest, nearest)
            lowest = tl.where(is_lower, block_lowest, lowest)
        tl.store(costs + row, lowest, mask=is_stale)
        tl.store(partners + row, nearest, mask=is_stale)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def merge_kernel(
    merged, given, given_totals, weight_scale, centers, totals, costs, partners, flags, n_all, n_clusters, n_fixed,
    width: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Merge the clusters (B, M, D) of totals (B, M), in fixed-point units, to (B, K, D). A program merges one run.

    The float64 arrays `centers` (B, M, D), `totals` and `costs` (B, M), and the int32 arrays `partners` (B, M) and
    `flags` (B, 4, M), are scratch memory.
    """
    run = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    given += run * n_all * width
    centers += run * n_all * width
    given_totals += run * n_all
    totals += run * n_all
    costs += run * n_all
    partners += run * n_all
    alive = flags + run * 4 * n_all
    stale = alive + n_all
    is_mutual = stale + n_all
    changed = is_mutual + n_all
    scale = tl.load(weight_scale + run)
    for start in range(0, n_all, block):
        cluster = start + lanes
        inside = cluster < n_all
        for channel in tl.static_range(width):
            value = tl.load(given + cluster * width + channel, mask=inside, other=0).to(tl.float64)
            tl.store(centers + cluster * width + channel, value, mask=inside)
        total = tl.load(given_totals + cluster, mask=inside, other=0).to(tl.float64) / scale
        tl.store(totals + cluster, tl.where(cluster < n_fixed, float("inf"), total), mask=inside)
        tl.store(alive + cluster, 1, mask=inside)
        tl.store(stale + cluster, 1, mask=inside)
    needed = n_all - n_clusters
    while needed > 0:
        tl.debug_barrier()  # all threads have written the clusters
        for first_row in range(0, n_all, rows):
            _store_cheapest(
                costs, partners, first_row, centers, totals, alive, stale, n_all, n_fixed, width, rows, block
            )  # fmt: skip
        tl.debug_barrier()  # all threads have written the partners
        n_mutual = tl.zeros((), tl.int32)
        least = tl.full((), float("inf"), tl.float64)
        cheapest = tl.zeros((), tl.int32)
        for start in range(0, n_all, block):
            cluster = start + lanes
            inside = cluster < n_all
            cost = tl.load(costs + cluster, mask=inside, other=float("inf"))
            partner = tl.load(partners + cluster, mask=inside, other=0)
            returned = tl.load(partners + partner, mask=inside, other=-1)
            is_alive = tl.load(alive + cluster, mask=inside, other=0) != 0
            mutual = ((returned == cluster) & (cluster < partner) & is_alive).to(tl.int32)
            n_mutual += tl.sum(mutual, 0)
            tl.store(is_mutual + cluster, mutual, mask=inside)
            tl.store(changed + cluster, 0, mask=inside)
            block_least, block_cheapest = tl.min(cost, 0, return_indices=True)
            cheapest = tl.where(block_least < least, start + block_cheapest, cheapest)
            least = tl.minimum(least, block_least)
        tl.debug_barrier()  # all threads have written the pairs
        if n_mutual == 0:  # with ties there may be no mutual pair; the cheapest pair is merged then
            tl.store(is_mutual + cheapest, 1)
            n_mutual += 1
            tl.debug_barrier()  # all threads have written this pair
        n_merges = tl.minimum(n_mutual, (needed + 3) // 4)
        for start in range(0, n_all, block):
            first = start + lanes
            inside = first < n_all
            chosen = tl.load(is_mutual + first, mask=inside, other=0) != 0
            if n_merges < n_mutual:  # the cheapest pairs, of equal costs the pair of the lowest index
                cost = tl.load(costs + first, mask=inside, other=0)
                rank = tl.zeros((block,), tl.int32)
                for cluster in range(0, n_all):
                    if tl.load(is_mutual + cluster) != 0:
                        other_cost = tl.load(costs + cluster)
                        rank += ((other_cost < cost) | ((other_cost == cost) & (cluster < first))).to(tl.int32)
                chosen = chosen & (rank < n_merges)
            second = tl.load(partners + first, mask=chosen, other=0)
            first_total = tl.load(totals + first, mask=chosen, other=0)
            second_total = tl.load(totals + second, mask=chosen, other=0)
            total = first_total + second_total
            # A fixed center does not move, because its total is infinite.
            fraction = tl.where(total > 0, second_total / tl.where(total > 0, total, 1), 0.0)
            for channel in tl.static_range(width):
                of_first = tl.load(centers + first * width + channel, mask=chosen, other=0)
                of_second = tl.load(centers + second * width + channel, mask=chosen, other=0)
                tl.store(centers + first * width + channel, of_first + fraction * (of_second - of_first), mask=chosen)
            tl.store(totals + first, total, mask=chosen)
            tl.store(changed + first, 1, mask=chosen)
            # Removed clusters keep their costs until all pairs are chosen.
            tl.store(changed + second, 1, mask=chosen)
            tl.store(alive + second, 0, mask=chosen)
        tl.debug_barrier()  # all threads have written the changes
        for start in range(0, n_all, block):
            cluster = start + lanes
            inside = cluster < n_all
            is_alive = tl.load(alive + cluster, mask=inside, other=0) != 0
            partner = tl.load(partners + cluster, mask=inside, other=0)
            changes = tl.load(changed + cluster, mask=inside, other=0)
            changes |= tl.load(changed + partner, mask=inside, other=0)
            tl.store(stale + cluster, (is_alive & (changes != 0)).to(tl.int32), mask=inside)
            tl.store(costs + cluster, float("inf"), mask=inside & (is_alive == 0))
        needed -= n_merges
    tl.debug_barrier()  # all threads have written the clusters
    n_before = tl.zeros((), tl.int32)
    for start in range(0, n_all, block):
        cluster = start + lanes
        is_alive = tl.load(alive + cluster, mask=cluster < n_all, other=0)
        position = run * n_clusters + n_before + tl.cumsum(is_alive, 0) - 1
        for channel in tl.static_range(width):
            value = tl.load(centers + cluster * width + channel, mask=is_alive != 0, other=0)
            tl.store(merged + position * width + channel, value.to(merged.dtype.element_ty), mask=is_alive != 0)
        n_before += tl.sum(is_alive, 0)
