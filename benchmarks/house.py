"""How easy the house is to live in: names, entries, constants, comments, rules of packages, tests, the demo.

Counts are made from the syntax trees of `src/braintumor`. With the names of parts as arguments (`counts`, `tests`,
`demo`, `hops`) only these are measured, and the numbers of the others are kept.

Takes: long, eight minutes.
Command: python benchmarks/house.py
"""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, number, record

sys.path.append(str(ROOT))

SOURCE = ROOT / "src" / "braintumor"
PARTS = ("counts", "hops", "tests", "demo")
SHORTEST_SENTENCE = 2  # words that make a string one for people


def main() -> None:
    """Produce `house.json`."""
    wanted = sys.argv[1:] or PARTS
    file = RESULTS / "house.json"
    numbers: dict[str, Any] = json.loads(file.read_text())["numbers"] if file.exists() else {}
    for part in wanted:
        numbers |= {"counts": counts, "hops": hops, "tests": tests, "demo": demo}[part]()
    record("house", "python benchmarks/house.py", numbers)


def counts() -> dict[str, Any]:
    """Return what the sources say about themselves."""
    from tests.test_layers import broken_rules

    files = sorted(SOURCE.rglob("*.py"))
    trees = {file: ast.parse(file.read_text()) for file in files}
    lines = sum(len(file.read_text().splitlines()) for file in files)
    comments = sum(comment_lines(file.read_text()) for file in files)
    listed = {
        "duplicate_names": duplicate_names(trees),
        "public_unused": public_unused(trees),
        "late_constants": late_constants(trees),
        "sentence_comparisons": sentence_comparisons(trees),
        "layers": broken_rules(),
    }
    for name, found in listed.items():
        print(f"{name}: {len(found)} {found[:40]}")
    return {
        "modules": number(len(files), "modules"),
        "lines": number(lines, "lines"),
        "comment_share": number(comments / lines, "share", n=lines),
        **{name: number(len(found), "places") for name, found in listed.items()},
    }


def comment_lines(text: str) -> int:
    """Return how many lines of a source hold a comment; marks for tools do not count."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    return sum(not re.match(r"#\s*(noqa|type:)", comment) for comment in comments.values())


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions and classes of a module, not what is inside them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def duplicate_names(trees: dict[Path, ast.Module]) -> list[str]:
    """Return the names that more than one public class or function of a module has."""
    names = Counter(node.name for tree in trees.values() for node in definitions(tree) if not node.name.startswith("_"))
    return sorted(name for name, count in names.items() if count > 1)


def public_unused(trees: dict[Path, ast.Module]) -> list[str]:
    """Return the module functions without `_` that are used in their own module alone, or nowhere.

    Uses are looked for in the package, its tests, benchmarks, documentation and configuration.
    """
    used: Counter[str] = Counter()
    texts = [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    texts += [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").glob("*.py"),
        ROOT / "pyproject.toml",
        ROOT / "README.md",
    ]
    words = {file: set(re.findall(r"\w+", file.read_text())) for file in texts}
    for file_words in words.values():
        used.update(file_words)
    return sorted(
        f"{file.relative_to(SOURCE).with_suffix('')}.{node.name}"
        for file, tree in trees.items()
        for node in definitions(tree)
        if not isinstance(node, ast.ClassDef) and not node.name.startswith("_") and used[node.name] < 2
    )


def late_constants(trees: dict[Path, ast.Module]) -> list[str]:
    """Return the constants that stand after the first function of their module; some are made of a class above them."""
    found = []
    for file, tree in trees.items():
        starts = [node.lineno for node in definitions(tree) if not isinstance(node, ast.ClassDef)]
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if names and starts and node.lineno > starts[0] and names[0].isupper():
                found.append(f"{file.relative_to(SOURCE).with_suffix('')}.{names[0]}")
    return found


def sentence_comparisons(trees: dict[Path, ast.Module]) -> list[str]:
    """Return where a string of several words is compared, or looked for in or at the end of another."""
    found = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            operands: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                operands = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith", "split"):
                operands = node.args
            values = [value for operand in operands for value in texts_of(operand)]
            if any(
                len(re.findall(r"[A-Za-z]{2,}", value)) > SHORTEST_SENTENCE and " " in value.strip() for value in values
            ):
                found.append(f"{file.relative_to(SOURCE)}:{node.lineno}")
    return found


def texts_of(node: ast.expr) -> Iterator[str]:
    """Yield the texts in an operand, those in a tuple too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for element in node.elts:
            yield from texts_of(element)


def hops() -> dict[str, Any]:
    """Return how many functions of ours lie between the command `predict` and the network's session."""
    program = """
import sys, traceback
from pathlib import Path
frames = []
import onnxruntime
before = onnxruntime.InferenceSession.run
def counted(self, *arguments, **options):
    stack = traceback.extract_stack()
    frames.append([f"{frame.name} {frame.filename}" for frame in stack if "src/braintumor" in frame.filename])
    return before(self, *arguments, **options)
onnxruntime.InferenceSession.run = counted
from braintumor.cli.main import main
status = main(["predict", sys.argv[1]])
names = [name.split(" ") for name in frames[-1]]
first = max(place for place, (_, file) in enumerate(names) if "/cli/" in file)
print("HOPS", len(names) - first - 1, [name for name, _ in names[first:]])
sys.exit(status)
"""
    with tempfile.TemporaryDirectory() as scratch:
        write_phantom(Path(scratch))
        picture = next(Path(scratch).rglob("*.png"))
        done = subprocess.run([sys.executable, "-c", program, picture], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("HOPS"))
    print(line)
    return {"hops.predict": number(int(line.split()[1]), "functions")}


def write_phantom(folder: Path) -> None:
    """Write a few synthetic slices."""
    from braintumor.data.phantom import write_phantoms

    write_phantoms(folder, per_class=2, size=128)


def tests() -> dict[str, Any]:
    """Return how long collecting and `make test` take, and which share of the lines the tests run.

    The tests are measured while their coverage is, which takes time of its own.
    """
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q"], cwd=ROOT, check=True, capture_output=True)
    collected = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "coverage.json"
        environment = os.environ | {
            "COVERAGE_FILE": str(Path(scratch) / "coverage"),
            "PYTEST_ADDOPTS": f"-q --cov=braintumor --cov-report=json:{report}",
        }
        began = time.perf_counter()
        subprocess.run(["make", "test", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, env=environment)
        seconds = time.perf_counter() - began
        totals = json.loads(report.read_text())["totals"]
    lines = totals["num_statements"]
    return {
        "collect.seconds": number(collected, "seconds"),
        "tests.seconds": number(seconds, "seconds"),
        "tests.coverage": number(totals["covered_lines"] / lines, "share", n=lines),
    }


def demo() -> dict[str, Any]:
    """Return how long `make demo` takes."""
    began = time.perf_counter()
    subprocess.run(["make", "demo", f"PYTHON={sys.executable}"], cwd=ROOT, check=True)
    seconds = time.perf_counter() - began
    shutil.rmtree(ROOT / "demo", ignore_errors=True)
    return {"demo.seconds": number(seconds, "seconds")}


if __name__ == "__main__":
    main()
