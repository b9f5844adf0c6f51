"""Recorded calls of native kernels, with the memory before and after each call. REPEAT repeats them without torch."""

import ctypes
import gc
import pickle

import torch

from gpukmeans.engines.native import library

# Names of fields and arguments whose memory is not compared: scratch memory, and values that depend on the order in
# which a product of matrices adds its terms.
_NO_RESULTS = {"scratch", "panels", "norms", "bounds", "drifts"}
_NO_KERNELS = ("flush_bits", "source_hash", "supports")

# A program that repeats the calls in the file sys.argv[2] with the library sys.argv[1], and compares the results. It
# needs only Python and ctypes.
REPEAT = """
import ctypes, pickle, sys

library = ctypes.CDLL(sys.argv[1])
called = set()
for call in pickle.load(open(sys.argv[2], "rb")):
    name, argtypes, restype, arguments, result, regions = call
    # 64 bytes more than needed, so that each region can start at a multiple of 64.
    memory = [ctypes.create_string_buffer(len(before) + 64) for before, *_ in regions]
    starts = [-(-ctypes.addressof(buffer) // 64) * 64 for buffer in memory]
    address = lambda place: starts[place[0]] + place[1]
    for start, (before, after, pointers, names) in zip(starts, regions):
        ctypes.memmove(start, before, len(before))
        for at, place in pointers.items():
            ctypes.c_uint64.from_address(start + at).value = address(place)
    function = library[name]
    function.argtypes = [getattr(ctypes, kind) for kind in argtypes]
    function.restype = restype and getattr(ctypes, restype)
    found = function(*(address(value) if isinstance(value, tuple) else value for value in arguments))
    assert found == result, (name, found, result)
    for start, (before, after, pointers, names) in zip(starts, regions):
        for at, place in pointers.items():
            ctypes.memmove(start + at, after[at : at + 8], 8)
        if after is not None:
            assert ctypes.string_at(start, len(after)) == after, (name, names)
    called.add(name)
print(*sorted(called))
"""


class RecordingLibrary(library.Library):
    """A library that records its calls. Arguments are numbers, and addresses of structures and tensors.

    Only one thread may call it. The structures and tensors must be created after the library: older objects are not
    searched.
    """

    def __init__(self, path):
        super().__init__(path)
        self.calls = []
        gc.collect()
        gc.freeze()

    def function(self, name, *argtypes, restype=ctypes.c_int):
        function = super().function(name, *argtypes, restype=restype)
        if any(part in name for part in _NO_KERNELS):
            return function

        def recorded(*arguments):
            memory = _Memory(arguments)
            before = memory.contents()
            result = function(*arguments)
            regions = [
                (content, after if names.isdisjoint(_NO_RESULTS) else None, pointers, sorted(names))
                for content, after, pointers, names in zip(
                    before, memory.contents(), memory.pointers, memory.names, strict=True
                )
            ]
            kinds = [kind.__name__ for kind in argtypes]
            kind = restype and restype.__name__
            self.calls.append((name, kinds, kind, memory.arguments, result, regions))
            return result

        return recorded

    def write(self, path):
        """Write the recorded calls to a file, and end the freeze of the garbage collector."""
        gc.unfreeze()
        path.write_bytes(pickle.dumps(self.calls))


class _Memory:
    """The regions of memory that a call can reach: its arguments, structures, and the targets of their pointers."""

    def __init__(self, arguments):
        self._known, self._structures = {}, {}
        for found in gc.get_objects():
            kind = type(found)  # `isinstance` is slow for tensors
            if kind is torch.Tensor:
                storage = found.untyped_storage()
                self._known[storage.data_ptr()] = storage.nbytes()
            elif issubclass(kind, ctypes.Structure | ctypes._SimpleCData):
                self._known[ctypes.addressof(found)] = ctypes.sizeof(found)
                if issubclass(kind, ctypes.Structure):
                    self._structures[ctypes.addressof(found)] = kind
        arguments = [getattr(value, "_obj", value) for value in arguments]  # the object of `byref`
        for i, value in enumerate(arguments):
            if isinstance(value, ctypes.Array | ctypes._SimpleCData):
                self._known[ctypes.addressof(value)] = ctypes.sizeof(value)
                arguments[i] = ctypes.addressof(value)
        self._regions = []
        self.pointers, self.names = [], []
        self.arguments = [self._place(value, "an argument") or value for value in arguments]

    def contents(self):
        return [ctypes.string_at(address, size) for address, size in self._regions]

    def _place(self, value, name):
        """The region and the offset of an address, or None for a number."""
        address = next((at for at, size in self._known.items() if value and at <= value < at + size), None)
        if address is None:
            return None
        region = address, self._known[address]
        if region not in self._regions:
            self._regions.append(region)
            self.pointers.append({})
            self.names.append(set())
            number = len(self._regions) - 1
            for at, field in _pointers(self._structures.get(address), 0):
                place = self._place(ctypes.c_uint64.from_address(address + at).value, field)
                if place is not None:
                    self.pointers[number][at] = place
        number = self._regions.index(region)
        if address not in self._structures:
            self.names[number].add(name)
        return number, value - address


def _pointers(structure, start):
    """The offsets and names of the pointers of a structure."""
    for name, kind in structure._fields_ if structure else ():
        at = start + getattr(structure, name).offset
        if kind is ctypes.c_void_p:
            yield at, name
        elif issubclass(kind, ctypes.Structure):
            yield from _pointers(kind, at)
