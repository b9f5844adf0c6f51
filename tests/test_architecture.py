"""The picture of the house as a test: which module may import which, and what the tensor package never touches."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A: {B, C} means that A imports B and C, of the house's own modules.
ARROWS = {
    "gpukmeans": {
        "__init__": {
            "assignment",
            "batches",
            "checkpoints",
            "clustering",
            "engines",
            "estimator",
            "histogram",
            "colorspace",
            "dithering",
            "metrics",
            "quantization",
            "seeding",
            "transforms",
        },
        "blocks": set(),
        "score": set(),
        "scratch": set(),
        "moments": set(),
        "engine_torch": {"blocks", "moments", "score"},
        "engine_matmul": {"engine_torch"},
        "layout": set(),
        "candidates": {"blocks", "layout", "score", "scratch"},
        "tally": {"blocks", "layout", "moments"},
        "engine_cells": {"blocks", "candidates", "engine_torch", "layout", "moments", "score", "scratch", "tally"},
        "stored": {"layout"},
        "kernels": set(),
        "fused": {"kernels", "moments", "stored"},
        "engine_triton": {"blocks", "engine_torch", "fused", "moments", "stored"},
        "engines": {"engine_cells", "engine_matmul", "engine_torch", "engine_triton", "moments"},
        "values": {"score"},
        "survey": {"moments", "values"},
        "points": {"moments", "survey", "values"},
        "tensor_part": {"blocks", "engines", "moments", "points", "score", "survey", "values"},
        "seeding": {"points"},
        "checkpoints": set(),
        "lloyd": {"checkpoints", "moments", "points", "score"},
        "refinement": {"blocks", "lloyd", "points", "score"},
        "metrics": {"lloyd", "score"},
        "checks": {"checkpoints", "metrics", "seeding", "values"},
        "assignment": {"checks", "engines", "metrics", "score", "values"},
        "batches": {"checks"},
        "streaming": {
            "batches",
            "blocks",
            "checks",
            "engines",
            "metrics",
            "moments",
            "points",
            "survey",
            "tensor_part",
        },
        "ranks": set(),
        "distributed": {"moments", "points", "ranks", "survey"},
        "sources": {
            "batches",
            "checks",
            "distributed",
            "engines",
            "metrics",
            "points",
            "ranks",
            "streaming",
            "tensor_part",
            "values",
        },
        "clustering": {
            "checkpoints",
            "checks",
            "engines",
            "lloyd",
            "metrics",
            "points",
            "ranks",
            "refinement",
            "seeding",
            "sources",
            "values",
        },
        "estimator": {"assignment", "checkpoints", "checks", "clustering", "engines", "metrics", "seeding"},
        "colorspace": set(),
        "coarsening": set(),
        "histogram": {"blocks"},
        "palette": {
            "assignment",
            "blocks",
            "clustering",
            "coarsening",
            "colorspace",
            "engines",
            "histogram",
            "score",
            "seeding",
        },
        "dithering": {"assignment", "blocks", "colorspace", "histogram"},
        "quantization": {
            "checks",
            "colorspace",
            "dithering",
            "engines",
            "histogram",
            "palette",
            "seeding",
        },
        "transforms": {"quantization"},
    },
    "scripts/gpukmeans_cli": {
        "__init__": set(),
        "__main__": {"main"},
        "files": set(),
        "metadata": set(),
        "png": {"metadata"},
        "encoding": {"files", "image_io", "metadata", "png"},
        "image_io": {"files", "metadata"},
        "animation": {"files", "image_io", "metadata", "png", "encoding"},
        "device": set(),
        "sample": set(),
        "comparison": set(),
        "main": {
            "cluster",
            "compare",
            "compress",
            "demo",
            "meeting",
            "messages",
            "palette",
            "ranks",
            "report",
            "runtime",
            "gpukmeans",
        },
        "messages": set(),
        "runtime": set(),
        "ranks": set(),
        "meeting": {"messages", "ranks", "runtime"},
        "rounds": {"messages", "progress"},
        "states": {"files"},
        "label_files": {"files", "meeting", "shards"},
        "clusters": {
            "files",
            "label_files",
            "meeting",
            "memory",
            "messages",
            "ranks",
            "reports",
            "rounds",
            "shard_files",
            "shards",
            "states",
            "gpukmeans",
            "gpukmeans.batches",
            "gpukmeans.checks",
        },
        "cluster": {
            "arguments",
            "clusters",
            "files",
            "meeting",
            "messages",
            "options",
            "ranks",
            "rounds",
            "runtime",
        },
        "shard_files": {"gpukmeans.checks"},
        "shards": {"shard_files", "gpukmeans.checks"},
        "demo": {
            "comparison",
            "device",
            "encoding",
            "files",
            "image_io",
            "messages",
            "pipeline",
            "reports",
            "runtime",
            "sample",
            "gpukmeans.histogram",
        },
        "options": set(),
        "arguments": {"device", "files", "goals", "jobs", "palettes", "ranks"},
        "jobs": {"files"},
        "crew": {"runtime"},
        "progress": {"messages", "reports"},
        "summary": {"reports"},
        "voice": {"files", "jobs", "messages", "pipeline", "reports"},
        "batch": {
            "crew",
            "files",
            "jobs",
            "meeting",
            "messages",
            "pipeline",
            "progress",
            "ranks",
            "summary",
            "voice",
            "gpukmeans.histogram",
        },
        "compress": {
            "arguments",
            "batch",
            "files",
            "jobs",
            "meeting",
            "messages",
            "options",
            "pipeline",
            "ranks",
            "runtime",
            "voice",
            "gpukmeans.palette",
        },
        "compare": {
            "arguments",
            "comparison",
            "encoding",
            "files",
            "image_io",
            "memory",
            "messages",
            "options",
            "reports",
            "runtime",
            "similarity",
        },
        "similarity": {"channels", "gpukmeans.blocks", "gpukmeans.colorspace"},
        "report": {"arguments", "files", "messages", "options", "page", "pipeline", "reports", "runtime", "trials"},
        "trials": {
            "channels",
            "cloud",
            "encoding",
            "memory",
            "pipeline",
            "source",
            "gpukmeans.histogram",
            "shares",
        },
        "cloud": {"gpukmeans.colorspace", "gpukmeans.histogram"},
        "charts": {"reports"},
        "page": {"charts", "cloud", "messages", "palettes", "reports", "trials"},
        "palettes": {"files", "image_io"},
        "swatches": set(),
        "reports": set(),
        "goals": {"files", "reports"},
        "memory": {"files"},
        "channels": {"gpukmeans.histogram"},
        "source": {"animation", "files", "image_io", "metadata"},
        "shares": {
            "channels",
            "image_io",
            "memory",
            "gpukmeans.colorspace",
            "gpukmeans.histogram",
            "gpukmeans.palette",
        },
        "palette": {
            "arguments",
            "channels",
            "files",
            "messages",
            "options",
            "palettes",
            "reports",
            "runtime",
            "shares",
            "swatches",
            "gpukmeans.histogram",
        },
        "pipeline": {
            "animation",
            "channels",
            "crew",
            "encoding",
            "files",
            "goals",
            "memory",
            "metadata",
            "reports",
            "similarity",
            "source",
            "gpukmeans.colorspace",
            "gpukmeans.engines",
            "gpukmeans.histogram",
            "gpukmeans.palette",
            "gpukmeans.quantization",
        },
    },
}
FORBIDDEN = {"PIL", "argparse", "io", "numpy", "os", "pathlib", "rich", "subprocess", "sys", "tempfile", "typer"}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at its top or inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name modules in full"
            found.add(node.module)
    return found


def own_imports(package: str, path: Path) -> set[str]:
    """The house's own modules that a file imports, without the package they share with it."""
    name = Path(package).name
    own = {module for module in imports(path) if module.split(".")[0] in ("gpukmeans", "gpukmeans_cli")}
    return {module.removeprefix(f"{name}.") for module in own}


@pytest.mark.parametrize("package", ARROWS)
def test_the_rooms_are_those_of_the_picture(package):
    assert {path.stem for path in (ROOT / package).glob("*.py")} == set(ARROWS[package])


@pytest.mark.parametrize(("package", "module"), [(p, m) for p, modules in ARROWS.items() for m in modules])
def test_a_module_imports_what_the_picture_shows(package, module):
    assert own_imports(package, ROOT / package / f"{module}.py") == ARROWS[package][module]


def test_the_arrows_have_no_cycle():
    arrows = dict(ARROWS["gpukmeans"])
    while arrows:
        leaves = {module for module, targets in arrows.items() if not targets & arrows.keys()}
        assert leaves, f"a cycle among {sorted(arrows)}"
        arrows = {module: targets for module, targets in arrows.items() if module not in leaves}


@pytest.mark.parametrize("module", ARROWS["gpukmeans"])
def test_the_tensor_package_touches_no_file_argument_or_device(module):
    path = ROOT / "gpukmeans" / f"{module}.py"
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    globals_touched = ("torch.manual_seed", "torch.cuda.", "torch.set_", "torch.backends", "open", "print", "input")
    assert not [call for call in calls if call.startswith(globals_touched)]


def test_only_what_reads_writes_or_draws_pictures_knows_pillow():
    knowing = {
        path.stem for path in (ROOT / "scripts").rglob("*.py") if any(n.startswith("PIL") for n in imports(path))
    }
    assert knowing <= {
        *("image_io", "metadata", "animation", "encoding", "palettes"),
        *("comparison", "demo", "bench", "folder", "pictures", "readme_sheet", "readme_report"),
    }


@pytest.mark.parametrize("launcher", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_a_checkout_runs_its_own_package(launcher):
    assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in launcher.read_text()


def test_every_module_has_a_test_file_of_its_name():
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    modules = {module for modules in ARROWS.values() for module in modules} - {"__init__"}
    assert modules <= tested, modules - tested
