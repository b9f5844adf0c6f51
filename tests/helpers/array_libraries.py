"""Arrays and tables with the interfaces of other libraries, which need not be installed."""

import numpy as np


class DLPackArray:
    """An array whose only interface is DLPack."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class ArrayOnDisk:
    """A table with the interface of a zarr array: slices are NumPy arrays, and `len` is not defined."""

    def __init__(self, values):
        self._values = values
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __iter__(self):
        return iter(self._values)

    def __getitem__(self, rows):
        return self._values[rows]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("all rows are read at once")


class NamespaceArray(DLPackArray):
    """An array with the interface of the array API standard."""

    def __array_namespace__(self):
        return type(self)

    @classmethod
    def from_dlpack(cls, tensor):
        return cls(tensor)


class ExtensionType:
    """The dtype of a column: a dtype of NumPy, or an extension dtype of pandas such as Int64."""

    def __init__(self, name):
        self.name = name
        self.kind = "i" if name.startswith("Int") else np.dtype(name).kind

    def __str__(self):
        return self.name


class Frame:
    """A table with the interface of a DataFrame."""

    def __init__(self, values, dtypes=None):
        self.values = values
        self.shape, self.ndim = values.shape, values.ndim
        self.dtypes = [ExtensionType(name) for name in dtypes or [str(values.dtype)] * values.shape[1]]

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(range(self.shape[1]))  # column names, as in pandas

    def __getitem__(self, rows):
        return Frame(self.values[rows], [dtype.name for dtype in self.dtypes])

    def __array__(self, dtype=None, copy=None):
        return self.to_numpy(dtype)

    def column(self, number):
        return Frame(self.values[:, number], [self.dtypes[number].name])

    def to_numpy(self, dtype=None, na_value=None):
        return np.asarray(self.values, dtype)
