"""An extension of Griffe, which reads the docstrings for the documentation site."""

from typing import Any

import griffe


class Sections(griffe.Extension):
    """Renames sections of docstrings to the names that Griffe recognizes."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename "Example:". In named tuples, whose constructor Griffe does not read, rename "Args:" too."""
        if obj.docstring is None:
            return
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        if isinstance(obj, griffe.Class) and "NamedTuple" in map(str, obj.bases):
            text = text.replace("\nArgs:\n", "\nAttributes:\n")
        obj.docstring.value = text
