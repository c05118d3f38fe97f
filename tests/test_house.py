"""The rule that holds the house: imports go down only, and rooms stay small."""

import ast
import gc
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "iqa_jax"
# Floors from the lowest; rooms of one floor may use one another, but not in a circle.
FLOORS = [
    {"errors", "files", "journal", "progress", "signals"},
    {"ops", "parallel", "data"},
    {"models", "evaluation"},
    {"weights"},
    {"scoring"},
    {"reporting", "torch"},
    {"training", "configs"},
    {"cli"},
]
pytestmark = pytest.mark.quick


def modules() -> dict[str, ast.Module]:
    trees = {}
    gc.disable()  # the parser of Python 3.11 failed once, perhaps by what a collection ran in between
    try:
        for path in sorted(PACKAGE.rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            trees[name] = ast.parse(path.read_text())
    finally:
        gc.enable()
    return trees


MODULES = modules()


def imported(tree: ast.Module) -> set[str]:
    """The modules of this package that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iqa_jax"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("iqa_jax")}
    return names


def floor(module: str) -> int | None:
    """None for the face of the package and its door."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return None
    return next(number for number, rooms in enumerate(FLOORS) if parts[1] in rooms)


def test_imports_go_down_only():
    for module, tree in MODULES.items():
        for other in imported(tree) if floor(module) is not None else ():
            if floor(other) is not None:
                assert floor(other) <= floor(module), f"{module} imports {other}, which is above it"


def test_no_two_modules_import_each_other_round_about():
    uses = {module: imported(tree) - {"iqa_jax"} for module, tree in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]):
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(uses.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in uses:
        visit(module, ())


def test_files_and_functions_stay_small():
    for module, tree in MODULES.items():
        lines = max((getattr(node, "end_lineno", 0) or 0 for node in tree.body), default=0)
        assert lines <= 400, f"{module} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length < 80, f"{module}.{node.name} has {length} lines"


def test_text_files_are_utf_8_whatever_the_locale():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            of_text = name in ("read_text", "write_text") or (
                name == "open"
                and any(ast.unparse(a).strip("'") in ("r", "w", "a", "x") for a in node.args[1:])
            )
            told = any(keyword.arg == "encoding" for keyword in node.keywords)
            assert told or not of_text, f"{module}, line {node.lineno}: a text file without an encoding"


def test_public_things_say_what_they_are():
    for module, tree in MODULES.items():
        assert ast.get_docstring(tree) or module == "iqa_jax.__main__", module
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(re.sub(r"\[.*\]", "", line).split("==") for line in lines if re.match(r"\w", line))


def test_the_pinned_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: deps for name, deps in project["optional-dependencies"].items() if name != "all"}
    # PyTorch is as large as all else together: who trains here needs none, and `all` leaves it out.
    (of_torch,) = (r for r in map(Requirement, extras.pop("torch")) if r.name != project["name"])
    assert of_torch.specifier.contains(pinned("requirements-dev.txt")[of_torch.name])
    listed = [Requirement(text) for text in [*project["dependencies"], *sum(extras.values(), [])]]
    needed = [requirement for requirement in listed if requirement.name != project["name"]]
    versions = pinned("requirements.txt")
    for requirement in needed:
        version = versions.get(requirement.name)
        assert version and requirement.specifier.contains(version), f"{requirement}: pinned is {version}"
    assert versions.keys() == {requirement.name for requirement in needed}
    (everything,) = project["optional-dependencies"]["all"]
    assert Requirement(everything).extras == extras.keys()
