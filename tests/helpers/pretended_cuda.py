"""A pretended CUDA device for a torch without CUDA. Its tensors report `cuda:N` and keep their values in CPU memory.

Operations refuse mixed devices as CUDA does, Triton kernels are interpreted, and a log counts kernel launches and
host synchronizations. The pretended device does not show data races, alignment, memory limits, the rounding of CUDA's
own kernels, or time.
"""

import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
import traceback
import types
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from helpers.compiled_kernels import variant_of

# Kernels that CUDA launches for operations that are not one kernel, about as in torch 2.13.
_N_KERNELS = {"sort": 8, "nonzero": 4, "_unique2": 14, "unique_dim": 16, "unique_consecutive": 6, "cumsum": 2}
_N_KERNELS |= {"bincount": 5, "median": 6, "equal": 3, "baddbmm": 2, "masked_select": 6, "_local_scalar_dense": 0}
# Times that the host waits for the device in an operation.
_N_SYNCS = {"_local_scalar_dense": 1, "nonzero": 1, "_unique2": 2, "unique_dim": 2, "unique_consecutive": 1}
_N_SYNCS |= {"bincount": 2, "equal": 1, "masked_select": 1, "histc": 1, "multinomial": 1}
_ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "set_"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Operations that refuse a CPU tensor without dimensions. Most others use it as a number.
_NO_CPU_SCALARS = {"cat", "stack", "index_select", "gather", "scatter", "scatter_", "scatter_add_", "scatter_reduce_"}
_NO_CPU_SCALARS |= {"searchsorted", "bucketize", "baddbmm", "bmm", "mm", "_cdist_forward", "index_copy_", "take"}

# torch without CUDA refuses the device, because nothing is registered that sets the current device.
_DEVICE_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::DeviceIndex deviceCount() const noexcept override { return 2; }
};
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, new Guard());
"""


def unsupported_reason():
    """The reason why there can be no pretended device, else None."""
    if torch.cuda.is_available():
        return "there is a CUDA device"
    if shutil.which("c++") is None:
        return "the pretended CUDA device needs a C++ compiler"
    return None


class DeviceLog:
    """The operations on the device since the last `clear`.

    `launches_of` counts kernel launches by the name of the operation or kernel, `syncs_at` counts synchronizations by
    operation, file and line. `variants` are the different variants of Triton kernels, in the order of first launches.
    """

    def __init__(self, device):
        self.device = device
        self.launches_of, self.syncs_at, self.variants = Counter(), Counter(), []

    def clear(self):
        self.launches_of.clear()
        self.syncs_at.clear()
        self.variants.clear()

    @property
    def launches(self):
        return self.launches_of.total()

    @property
    def syncs(self):
        return self.syncs_at.total()

    def add_kernel(self, kernel, args, keywords):
        self.launches_of[kernel.fn.__name__] += 1
        variant = variant_of(kernel, args, keywords)
        if variant not in self.variants:
            self.variants.append(variant)

    def add_syncs(self, name, n=1):
        frames = (frame for frame in reversed(traceback.extract_stack(limit=50)) if "gpukmeans" in frame.filename)
        places = (f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        self.syncs_at[f"{name} at {next(places, 'the test')}"] += n

    def __str__(self):
        launches = [f"  {n} x {name}" for name, n in self.launches_of.most_common()]
        syncs = [f"  {n} x {place}" for place, n in self.syncs_at.most_common()]
        return "\n".join([f"{self.launches} launches", *launches, f"{self.syncs} synchronizations", *syncs])


@contextlib.contextmanager
def pretended_cuda(processors=2, not_run=frozenset(), index=0):
    """Inside the context there is a CUDA device of this index, with few processors. Gives its `DeviceLog`.

    The current device has the index 0. Launches of the kernels with the names `not_run` are counted, but not
    interpreted. Their results are undefined.
    """
    _load_device_guard()
    log = DeviceLog(torch.device("cuda", index))
    with contextlib.ExitStack() as stack:
        for owner, name, value in _replacements(log, processors, not_run):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Dispatch(log))
        yield log


class _DeviceTensor(torch.Tensor):
    """A tensor that reports the pretended device. `values` is the CPU tensor of its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values, log):
        # Outside of inference mode, because a view of a normal tensor must be a normal tensor.
        with torch.inference_mode(False):
            self = torch.Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                layout=values.layout,
                device=log.device,
                requires_grad=False,
            )
        self.values, self.log = values, log
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, cls)]
        return _run(tensors[0].log, func, args, kwargs or {})

    def record_stream(self, stream):
        pass

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"on {self.device}: {self.values}"

    def __getitem__(self, index):
        # torch copies a list to the device of the tensor before it dispatches.
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(torch.tensor(part, device=self.device) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(parts)


class _Dispatch(TorchDispatchMode):
    """Runs the operations that create tensors on the pretended device."""

    def __init__(self, log):
        super().__init__()
        self._log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(self._log, func, args, kwargs or {})


def _values(leaf):
    return leaf.values if isinstance(leaf, _DeviceTensor) else leaf


def _run(log, func, args, kwargs):
    """The result of one operation of torch, on either device."""
    name = func._schema.name.split("::")[1]
    leaves, structure = tree_flatten((args, kwargs))
    on_device = [leaf for leaf in leaves if isinstance(leaf, _DeviceTensor)]
    if not on_device and not _is_cuda(kwargs.get("device")):
        return func(*args, **kwargs)
    if _is_cuda(kwargs.get("device")) and (torch.device(kwargs["device"]).index or 0) != log.device.index:
        raise RuntimeError(f"{name} on {kwargs['device']}, which is not the device of the other tensors, {log.device}")
    _refuse_nondeterministic(name, args)
    if name == "copy_":
        return _copy(log, func, args, kwargs)
    if name == "_to_copy":
        return _to_copy(log, func, args, kwargs)
    if func.namespace == "gpukmeans":
        from gpukmeans.engines.fused.launch import OPERATIONS

        with _Dispatch(log):
            return OPERATIONS[name].run(*args, **kwargs)
    _check_devices(func, name, args, [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
    _count(log, func, name, args)
    plain_args, plain_kwargs = tree_unflatten([_values(leaf) for leaf in leaves], structure)
    if "device" in plain_kwargs:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    # An operation in place returns its argument.
    known = {id(tensor.values): tensor for tensor in on_device}

    def on_the_device(values):
        return known[id(values)] if id(values) in known else _DeviceTensor(values, log)

    return tree_map_only(torch.Tensor, on_the_device, result)


def _refuse_nondeterministic(name, args):
    """RuntimeError for an operation that CUDA refuses where algorithms must be deterministic."""
    is_sum_of_floats = name in ("cumsum", "cumsum_") and args[0].is_floating_point()
    is_weighted = name == "bincount" and len(args) > 1 and args[1] is not None
    has_indices = name in ("median", "kthvalue") and len(args) > 1
    if torch.are_deterministic_algorithms_enabled() and (
        is_sum_of_floats or is_weighted or has_indices or name in ("put_", "histc")
    ):
        raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")


def _is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def _copy(log, func, args, kwargs):
    target, source = args[:2]
    log.launches_of["copy_"] += 1
    if isinstance(target, _DeviceTensor) != isinstance(source, _DeviceTensor) and source.ndim > 0:
        log.add_syncs("copy_ between devices")
    func(*map(_values, args), **kwargs)
    return target


def _to_copy(log, func, args, kwargs):
    source = args[0]
    to_device = isinstance(source, _DeviceTensor) if kwargs.get("device") is None else _is_cuda(kwargs["device"])
    log.launches_of["_to_copy"] += 1
    if isinstance(source, _DeviceTensor) != to_device and not kwargs.get("non_blocking"):
        log.add_syncs("host to device" if to_device else "device to host")
    options = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
    result = func(_values(source), **options)
    return _DeviceTensor(result, log) if to_device else result


def _check_devices(func, name, args, tensors):
    """RuntimeError for tensors on different devices, where CUDA raises it."""
    others = [tensor for tensor in tensors if not isinstance(tensor, _DeviceTensor)]
    if name in _INDEXING and isinstance(args[0], _DeviceTensor):  # indices may be on the CPU
        others = [tensor for tensor in others if not any(tensor is index for index in args[1])]
    if any(tensor.ndim > 0 or name in _NO_CPU_SCALARS for tensor in others):
        received = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device, got {received} for {func}")


def _count(log, func, name, args):
    aliases = [result.alias_info for result in func._schema.returns if result.alias_info is not None]
    is_view = any(not alias.is_write for alias in aliases)
    if name in _ALLOCATIONS or is_view:
        return
    n_kernels, n_syncs = _N_KERNELS.get(name, _N_KERNELS.get(name.rstrip("_"), 1)), _N_SYNCS.get(name, 0)
    if name in _INDEXING:
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        is_fill = name != "index" and args[2].numel() == 1 and len(args[1]) == 1  # torch calls `masked_fill_`
        if not is_fill:
            n_kernels, n_syncs = n_kernels + 4 * len(masks), n_syncs + len(masks)
    log.launches_of[name] += n_kernels
    if n_syncs:
        log.add_syncs(name, n_syncs)


class _Stream(torch.Stream):
    """A stream that waits for nothing, because each operation ends before the next one begins."""

    def __new__(cls, device=None, **options):
        index = 0 if device is None else torch.device(device).index or 0
        return super().__new__(cls, stream_id=0, device_index=index, device_type=1)

    def wait_event(self, event):
        pass

    def record_event(self, event=None):
        return types.SimpleNamespace(synchronize=lambda: None)


def _replacements(log, processors, not_run):
    """Attributes to replace while there is a pretended device: (owner, name, value)."""
    from triton.runtime.interpreter import InterpretedFunction

    create_tensor, run_thread = torch.tensor, threading.Thread.run
    run_kernel, call = InterpretedFunction.run, InterpretedFunction.__call__

    @functools.wraps(create_tensor)
    def tensor(data, *, device=None, **options):
        if _is_cuda(device):
            return create_tensor(data, **options).to(device)
        return create_tensor(data, device=device, **options)

    def run_in_dispatch(thread):
        with _Dispatch(log):  # a mode applies to one thread
            run_thread(thread)

    current_index = 0

    def set_index(index):
        nonlocal current_index
        before, current_index = current_index, current_index if index < 0 else index
        return before

    def run_on_values(kernel, *args, **kwargs):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if not all(isinstance(arg, _DeviceTensor) for arg in tensors):
            raise ValueError(f"Pointer argument cannot be accessed from Triton (cpu tensor?) in {kernel.fn.__name__}")
        if current_index != log.device.index:
            raise RuntimeError(f"{kernel.fn.__name__} on {log.device} while the current device is {current_index}")
        log.add_kernel(kernel, args, kwargs)
        if kernel.fn.__name__ in not_run:
            return None
        with _disable_current_modes():
            return run_kernel(kernel, *map(_values, args), **kwargs)

    patched = set()

    def call_in_kernel(function, *args, **kwargs):
        # Triton patches its language at each call, which takes longer than most functions. Once for a module is enough.
        if function.fn.__module__ in patched or function.fn.__module__.startswith("gpukmeans"):
            return function.rewrite()(*args, **kwargs)
        patched.add(function.fn.__module__)
        return call(function, *args, **kwargs)

    properties = types.SimpleNamespace(multi_processor_count=processors, total_memory=139 << 30, major=9, minor=0)
    current_stream = _Stream()
    yield torch, "tensor", tensor
    yield torch, "Stream", _Stream
    yield torch.Tensor, "pin_memory", lambda self, device=None: self.clone()
    yield threading.Thread, "run", run_in_dispatch
    yield InterpretedFunction, "run", run_on_values
    yield InterpretedFunction, "__call__", call_in_kernel
    yield torch.cuda, "_lazy_init", lambda: None
    yield torch.cuda, "is_available", lambda: True
    yield torch.cuda, "device_count", lambda: log.device.index + 1
    yield torch.cuda, "current_device", lambda: current_index
    yield torch.cuda, "synchronize", lambda device=None: log.add_syncs("synchronize")
    yield torch.cuda, "_exchange_device", set_index
    yield torch.cuda, "_maybe_exchange_device", set_index
    yield torch.cuda, "get_device_properties", lambda device=None: properties
    yield torch.cuda, "mem_get_info", lambda device=None: (100 << 30, 139 << 30)
    yield torch.accelerator, "is_available", lambda: True
    yield torch.accelerator, "set_stream", lambda stream: None
    yield torch.accelerator, "current_stream", lambda device=None: current_stream


@functools.cache
def _load_device_guard():
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guard.so"
        command = ["c++", "-std=c++20", "-shared", "-fPIC", f"-I{root}/include", "-x", "c++", "-", f"-L{root}/lib"]
        subprocess.run([*command, "-lc10", "-o", str(path)], input=_DEVICE_GUARD, text=True, check=True)
        return ctypes.CDLL(str(path))
