"""Mutations of the engines: each must make a test fail. Not part of `make test`, as each compiles the kernels.

`python tests/mutations.py [NUMBER ...]` applies them one by one to a copy of the checkout, and prints which tests
fail. The exit code is 1 if all tests pass with one of them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ENGINES = Path("gpukmeans", "engines")
TESTS = Path("tests", "engines")


class Mutation(NamedTuple):
    """A change of one place in a file of an engine, and the test file that has to notice it."""

    what: str
    file: str
    before: str
    after: str
    tests: str


MUTATIONS = [
    Mutation(
        "few: lists without their rounding margin", "few_width.h", "(4 * WIDTH + 32) * REAL_EPS", "0", "test_few.py"
    ),
    Mutation(
        "few: a list one too short", "few_width.h", "  return n_kept;", "  return n_kept - (n_kept > 1);", "test_few.py"
    ),
    Mutation("few: half of the slack", "few_width.h", "slack *= 2;", "", "test_few.py"),
    Mutation(
        "few: a rounding margin without the extent of the box",
        "few_width.h",
        "rounding * (best + sqdiagonal)",
        "rounding * best",
        "test_few.py",
    ),
    Mutation(
        "few: slack without the extent of the box",
        "few_width.h",
        "slack * (SQRT(best) + 2 * SQRT(sqdiagonal))",
        "slack * SQRT(best)",
        "test_few.py",
    ),
    Mutation(
        "few: the highest index on ties",
        "few_width.h",
        "closer0 = total0 < best0",
        "closer0 = total0 <= best0",
        "test_few.py",
    ),
    Mutation(
        "few: a sign in totals", "few_width.h", "from[part] -= terms[part]", "from[part] += terms[part]", "test_few.py"
    ),
    Mutation(
        "many: a quarter of the error of products",
        "many_body.h",
        "+ rounding->absolute) / 2;",
        "+ rounding->absolute) / 8;",
        "test_many.py",
    ),
    Mutation(
        "many: bounds that do not follow the centers",
        "many_body.h",
        "const float drift = round_up_to_f32(sqrt(sqmove) * 1.000001);",
        "const float drift = 0;",
        "test_many.py",
    ),
    Mutation(
        "many: the highest index on ties",
        "many_body.h",
        "(other == best && members[i] < nearest)",
        "(other == best && members[i] > nearest)",
        "test_many.py",
    ),
    Mutation(
        "matmul: a tenth of the error of products",
        "matmul.py",
        "(x.shape[2] + 8) * (info.eps",
        "(x.shape[2] + 8) / 10 * (info.eps",
        "test_matmul.py",
    ),
    Mutation(
        "merging: the last partner on ties",
        "merging.c",
        "int64_t first = 0;\n  while (first < n - 1 && values[first] != least) first++;",
        "int64_t first = n - 1;\n  while (values[first] != least) first--;",
        "test_merging.py",
    ),
    Mutation(
        "merging: costs of merges with a cluster that changed",
        "merging.c",
        " || states[partners[cluster]] != SAME",
        "",
        "test_merging.py",
    ),
    Mutation(
        "dithering: errors of another row",
        "dithering.c",
        "3 * above[1] + 5 * above[0]",
        "5 * above[1] + 3 * above[0]",
        "test_dithering.py",
    ),
    Mutation(
        "optimizing: the highest index on ties",
        "optimizing.c",
        "best = color < best ? color : best;",
        "best = color < 256 ? color : best;",
        "test_optimizing.py",
    ),
    Mutation(
        "optimizing: no bits of the pixel below right",
        "optimizing.c",
        "if (has_right && below == 4)",
        "if (has_right && below == 5)",
        "test_optimizing.py",
    ),
    Mutation(
        "optimizing: bits of a pixel beside the image",
        "optimizing.c",
        "const int has_right = x + 1 < s->width;",
        "const int has_right = x < s->width;",
        "test_optimizing.py",
    ),
    Mutation(
        "optimizing: bits of a pair beside the image",
        "optimizing.c",
        "const int is_last = x + 1 == s->width;",
        "const int is_last = x == s->width;",
        "test_optimizing.py",
    ),
    Mutation(
        "optimizing: levels rounded down",
        "optimizing.c",
        "2 * residuals[k * 3 + axis] + weight, 2 * weight",
        "2 * residuals[k * 3 + axis], 2 * weight",
        "test_optimizing.py",
    ),
    Mutation(
        "png: the last of equal filters",
        "png.c",
        "if (cost < least)",
        "if (cost <= least)",
        "test_png.py",
    ),
    Mutation(
        "png: orders grow to the other side",
        "png.c",
        "leftward > 0 ? --left : right++",
        "leftward >= 0 ? --left : right++",
        "test_png.py",
    ),
    Mutation(
        "colors: a row too high",
        "colors.c",
        "__builtin_popcountll(up_to_code) - 1",
        "__builtin_popcountll(up_to_code)",
        "test_colors.py",
    ),
    Mutation(
        "seeding: boxes are excluded by a distance that is too large",
        "few_seeding.h",
        "const MASK reached = sqdist < V(load)(most + i);",
        "const MASK reached = sqdist * (1 + REAL_EPS) < V(load)(most + i);",
        "test_seeding.py",
    ),
]


def main(numbers: list[str]) -> int:
    """Run the mutations with these numbers, or all."""
    chosen = [MUTATIONS[int(number)] for number in numbers] or MUTATIONS
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        names = (".git", ".hypothesis", ".pytest_cache", ".venv", "_kernels*", "build", "demo", "docs")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*names))
        survivors = [mutation.what for mutation in chosen if not _is_noticed(mutation, copy)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations make a test fail")
    return 1 if survivors else 0


def _is_noticed(mutation: Mutation, copy: Path) -> bool:
    path = next((copy / ENGINES).rglob(mutation.file))
    original = path.read_text()
    if original.count(mutation.before) != 1:
        sys.exit(f"{mutation.file} must contain {mutation.before!r} once, got {original.count(mutation.before)}")
    path.write_text(original.replace(mutation.before, mutation.after))
    try:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), str(copy / "scripts")])}
        # The build may warn of what a mutation leaves unused.
        subprocess.run([sys.executable, "hatch_build.py"], cwd=copy, env=environment, check=True)
        tests = str(next((copy / TESTS).rglob(mutation.tests)))
        # Sanitizers take minutes.
        chosen = "not stay_within and not stay_in_their"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", chosen]
        answer = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(original)
    failed = sorted({line.split("::")[1].split("[")[0] for line in re.findall("^FAILED .*", answer.stdout, re.M)})
    crashed = answer.returncode < 0
    print(f"{mutation.what}: {', '.join(failed) or ('a crash' if crashed else 'NO TEST FAILS')}", flush=True)
    return bool(failed) or crashed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
