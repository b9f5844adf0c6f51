"""Runtime checks of type annotations in tests. jaxtyping also checks that named axes agree, at 20 µs a call."""

import dataclasses
import functools
import inspect
import typing

import jaxtyping

_with_axes = jaxtyping.jaxtyped


def install(package, checker):
    """Checks arguments and return values of the functions of a package against their annotations.

    Call this function before the package is imported. Functions without named axes are checked by `checker` alone,
    which takes a tenth of the time. `jaxtyping_disable` turns all checks off.
    """
    jaxtyping.jaxtyped = _checked  # the import hook decorates all functions and classes with `jaxtyped`
    jaxtyping.install_import_hook(package, checker)


def _checked(thing=None, *, typechecker):
    if thing is None:
        return functools.partial(_checked, typechecker=typechecker)
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = _checked(thing.__init__, typechecker=typechecker)
        return thing
    if any(map(_has_axes, thing.__annotations__.values())):
        return _with_axes(thing, typechecker=typechecker)
    checked_thing = typechecker(thing)

    @functools.wraps(thing)
    def checked(*args, **kwargs):
        return (thing if jaxtyping.config.jaxtyping_disable else checked_thing)(*args, **kwargs)

    return checked


def _has_axes(hint):
    """Whether the annotation has a jaxtyping array in it, as in `Float[Tensor, "n d"] | None`."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_axes, typing.get_args(hint)))
