from gpukmeans.engines.binary_powers import powers_of_parts


def test_each_power_is_the_least_integer_that_is_not_below_the_exact_value():
    powers = powers_of_parts()
    assert len(powers) == 63
    for i, power in enumerate(powers, 1):
        assert (power - 1) ** 64 < 2 ** (62 * 64 + i) <= power**64
