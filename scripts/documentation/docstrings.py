"""An extension of Griffe, which reads the docstrings for the documentation site."""

from typing import Any

import griffe


class Sections(griffe.Extension):
    """Renames sections of docstrings to the names of Griffe."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename "Example:", and "Args:" of a named tuple, because Griffe does not read its constructor."""
        if obj.docstring is None:
            return
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        if isinstance(obj, griffe.Class) and "NamedTuple" in map(str, obj.bases):
            text = text.replace("\nArgs:\n", "\nAttributes:\n")
        obj.docstring.value = text
