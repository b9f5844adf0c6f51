"""Points in a tensor, in a stream of batches, or on the ranks of a process group."""

from gpukmeans.points.base import Generators, NearestState, Points, each_generator
from gpukmeans.points.batches import Batches
from gpukmeans.points.communicator import Communicator, SingleProcess, communicator_for, on_device, run_on_all_ranks
from gpukmeans.points.inputs import (
    CallOptions,
    KMeansInput,
    check_equal_on_ranks,
    points_from_input,
    read_input,
    required_spec,
)
from gpukmeans.points.tensor import extended_by_kernels
from gpukmeans.points.worst_served import first_of_equal_rows

__all__ = [
    "Batches",
    "CallOptions",
    "Communicator",
    "Generators",
    "KMeansInput",
    "NearestState",
    "Points",
    "SingleProcess",
    "check_equal_on_ranks",
    "communicator_for",
    "each_generator",
    "extended_by_kernels",
    "first_of_equal_rows",
    "on_device",
    "points_from_input",
    "read_input",
    "required_spec",
    "run_on_all_ranks",
]
