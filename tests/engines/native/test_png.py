"""The rate of PNG rows and the orders of palettes by native kernels have the bits of tensor operations."""

from helpers import native
from helpers.problems import random_image
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import PngRate, fitted_rate, png_scanlines

SIZES = st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 30), (30, 1), (2, 3), (5, 4), (4, 5), (5, 6), (6, 7), (33, 47)])


@settings(max_examples=25)
@given(size=SIZES, k=st.sampled_from([1, 2, 3, 16, 17, 256]), seed=st.integers(0, 2**31), is_smooth=st.booleans())
def test_rates_and_orders_are_those_of_tensor_operations(size, k, seed, is_smooth):
    indices = random_image(*size, 1, k, seed)[..., 0]
    if is_smooth:
        indices = indices.flatten().sort().values.view(size)
    filters = random_image(1, size[0], 1, 5, seed).flatten().int()

    def results():
        rate = fitted_rate(indices)
        bits = [rate.total_bits(indices), PngRate(filters, rate.lengths).total_bits(indices)]
        orders = [order.tolist() for order in palette_orders(indices, k)]
        return rate.filters.tolist(), rate.lengths.tolist(), bits, orders, png_scanlines(indices).tolist()

    by_kernels = results()
    with native.without_native():
        assert by_kernels == results()
