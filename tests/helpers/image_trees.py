"""Images in nested folders, and the paths of their outputs."""

from helpers.image_files import files, noise, save

OUTPUTS = {"a.PNG": "a-4.png", "b.png": "b-4.png", "sub/a.png": "sub/a-4.png", "sub/deep/c.gif": "sub/deep/c-4.png"}
"""The path of the output with 4 colors, by the path of each image of `save_tree`."""


def save_tree(root):
    """Save four images in nested folders, and a hidden folder and files that are no images. Returns the root folder."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for seed, name in enumerate(["b.png", "a.PNG", "sub/a.png", "sub/deep/c.gif", ".hidden/d.png"]):
        save(noise(5 + seed, 7, 3, seed=seed), root / name)
    (root / "notes.txt").write_text("no image")
    (root / "sub" / "photo.png.bak").write_text("no image either")
    return root


def names(folder):
    """Relative paths of all files in a folder and its subfolders, as text."""
    return {path.relative_to(folder).as_posix() for path in files(folder)}


def inputs_of(out):
    """The inputs named by the lines of a report."""
    return [line.split(" -> ")[0] for line in out.splitlines()]
