"""Examples of docstrings are run, and docstrings of exported functions and classes list their arguments."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import gpukmeans

PUBLIC = {name: getattr(gpukmeans, name) for name in gpukmeans.__all__}
RETURNED = {"Assignment", "KMeansResult"}
PROTOCOLS = {"Engine", "Points"}
DOCUMENTED = sorted(
    {name for name, value in PUBLIC.items() if inspect.isfunction(value) or inspect.isclass(value)}
    - RETURNED
    - PROTOCOLS
)
NEEDS_TRITON = {"gpukmeans.engines.fused.kernels", "gpukmeans.engines.fused.launch"}
MODULES = sorted({module.name for module in pkgutil.walk_packages(gpukmeans.__path__, "gpukmeans.")} - NEEDS_TRITON)


def examples_of(value, name, module):
    """Doctests of a function, or of a class and its methods."""
    # Given a module, `doctest` skips functions whose decorator is from another one.
    return doctest.DocTestFinder().find(value, name, module=False, globs={**PUBLIC, "torch": torch, **vars(module)})


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_right(module):
    module = importlib.import_module(module)
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in own.items():
        if inspect.isroutine(value) or inspect.isclass(value):
            for example in examples_of(value, name, module):
                output = []
                assert doctest.DocTestRunner().run(example, out=output.append).failed == 0, "".join(output)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_docstring_lists_the_arguments_and_has_an_example(name):
    docstring = inspect.getdoc(PUBLIC[name])
    assert ">>> " in docstring.split("\nExample:\n")[1]
    assert any(example.examples for example in examples_of(PUBLIC[name], name, gpukmeans))
    arguments = docstring.split("\nArgs:\n")[1].split("\n\n")[0]
    listed = {line.split(":")[0].strip(" *") for line in arguments.splitlines() if line[4] != " "}
    assert listed == set(inspect.signature(PUBLIC[name]).parameters)
