"""How the house is laid out: imports run one way and in no circle, and each thing has one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("stylegan2", "clip2gan", "clip2gan.cli", "tools")  # each may import itself and those before it
LONGEST_FILE, LONGEST_FUNCTION = 450, 120  # lines


def files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in files("stylegan2", "clip2gan", "tools")}


def imports(path: Path, at_start: bool = False) -> set[str]:
    """Our modules that a file imports; `at_start`: only what is imported when the file itself is."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if name in MODULES]
            found.update(modules)
            if len(modules) < len(names) and node.module in MODULES:
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found - {module_name(path)}


def layer(module: str) -> int:
    return max(index for index, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}."))


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports(path)
        if layer(imported) > layer(module)
    ]
    assert [line for line in wrong if not line.startswith("clip2gan.__main__ ")] == []


def test_imports_run_in_no_circle() -> None:
    left = {module: imports(path, at_start=True) for module, path in MODULES.items()}
    while free := [module for module, wanted in left.items() if not wanted & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


def places(text: str, *packages: str) -> list[str]:
    return [module_name(path) for path in files(*packages) if text in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("def ema_update(", "stylegan2.training.schedule"),
        (".lerp_(value, 1 - keep)", "stylegan2.training.schedule"),
        ("def rate_factor(", "stylegan2.training.schedule"),
        ("math.cos(", "stylegan2.training.schedule"),  # a schedule's
        (".latest(", "stylegan2.training.engine"),  # a resume
        ("GradScaler", "stylegan2.training.engine"),
        ("clip_grad", "stylegan2.training.engine"),
        ("isfinite", "stylegan2.training.engine"),
        (".backward()", "stylegan2.training.engine"),
    ],
)
def test_each_part_of_a_training_has_one_place(what: str, place: str) -> None:
    found = places(what, "stylegan2/training", "clip2gan/training")
    found += [name for name in places(what, "tools") if name in ("tools.train_clip", "tools.train_judge")]
    if what == ".backward()":  # a measure of memory, which moves nothing
        found.remove("clip2gan.training.gan")
    assert found == [place]


def test_files_are_short() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in files("stylegan2", "clip2gan")
    }
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_of_the_commands_are_short() -> None:
    for path in files("clip2gan/cli"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                length = (node.end_lineno or first) - first + 1
                assert length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines, options included"


def test_nothing_outside_tools_reads_tools() -> None:
    for path in files("stylegan2", "clip2gan"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value != "tools", path
                assert not node.value.startswith("tools/"), path
