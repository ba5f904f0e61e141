"""How the house is laid out: imports run one way and in no circle, and each thing has one place."""

import ast
import re
from pathlib import Path

import click
import pytest

from clip2gan import cli
from clip2gan.domain import Domain
from stylegan2.training.config import PRESETS

ROOT = Path(__file__).parents[1]
LAYERS = ("stylegan2", "clip2gan", "clip2gan.cli", "tools")  # each may import itself and those before it
LONGEST_FILE, LONGEST_FUNCTION = 450, 120  # lines


def files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in files("stylegan2", "clip2gan", "tools")}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, for_types: bool = True) -> set[str]:
    """Our modules that a file imports, anywhere in it; `for_types`: those for annotations alone as well."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if not for_types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
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

    visit(parse(path))
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
    """Not even by way of imports inside functions."""
    left = {module: imports(path, for_types=False) for module, path in MODULES.items()}
    while free := [module for module, wanted in left.items() if not wanted & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


# The fast paths are made from networks, which call them.
TYPES_FROM_ABOVE = {
    ("stylegan2.frozen", "stylegan2.generator"),
    ("stylegan2.mobile_tiled", "stylegan2.mobile"),
}


def test_annotations_import_what_is_below_as_well() -> None:
    modules = [module for module in MODULES if module.startswith("stylegan2.") and "__init__" not in module]
    wanted = {module: imports(MODULES[module], for_types=False) for module in modules}

    def above(module: str) -> set[str]:
        """All that import a module, by whatever way."""
        found: set[str] = set()
        pending = {module}
        while pending:
            one = pending.pop()
            more = {name for name, needs in wanted.items() if one in needs} - found
            found |= more
            pending |= more
        return found

    upward = {
        (module, imported)
        for module in modules
        for imported in imports(MODULES[module]) - wanted[module]
        if imported in above(module)
    }
    assert upward == TYPES_FROM_ABOVE


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
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                length = (node.end_lineno or first) - first + 1
                assert length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines, options included"


def literals(path: Path) -> list[str]:
    """The strings of a module but for docstrings and help's epilogs, which hold examples."""
    tree = parse(path)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            left_out.add(id(node.body[0].value))  # type: ignore[attr-defined]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLE":
            left_out.add(id(node.value))
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in left_out]
    return [node.value for node in strings if isinstance(node.value, str)]


CODE = [
    path
    for path in files("stylegan2", "clip2gan")
    if not {"bundles", "domains"} & set(path.relative_to(ROOT).parts)
]
BUNDLES = {
    path.parent.name
    for folder in ("bundles", "domains")
    for path in (ROOT / "clip2gan" / folder).glob("*/*")
    if path.suffix != ".pyc"
}


def test_no_code_names_a_bundle() -> None:
    """But for the default model, in one place."""
    assert {"avatars", "faces"} <= BUNDLES
    found = [
        (module_name(path), text)
        for path in CODE
        for text in literals(path)
        if text in BUNDLES or re.search(r"\bavatars\b", text)
    ]
    assert found == [("clip2gan.defaults", "avatars")]
    own = tuple(f"clip2gan.domains.{name}" for name in BUNDLES)
    for path in CODE:
        assert not [name for name in imports(path) if name.startswith(own)], path


FACE_WORDS = re.compile(
    r"\b(smil\w*|glasses|sunglasses|hair\w*|beard\w*|bald|portraits?|persons?|people|man|woman|girl|boy)\b",
    re.I,
)
FACES = re.compile(r"(?<!hugging )\b(faces?|eyes?|mouths?|noses?)\b", re.I)
ABOUT_FACES = {  # what --align finds, frames and pastes back; and recognisers of faces
    *("clip2gan.editing.alignment", "clip2gan.editing.faces", "clip2gan.editing.notices"),
    *("clip2gan.editing.session", "clip2gan.perceptual", "clip2gan.evaluation.report"),
    *("clip2gan.cli.edit", "clip2gan.cli._edits", "clip2gan.cli._edit_options", "clip2gan.cli._outputs"),
    *("clip2gan.cli._evaluation", "clip2gan.training.settings"),  # --identity
}


def test_no_default_speaks_of_faces() -> None:
    for path in CODE:
        about_faces = module_name(path) in ABOUT_FACES
        for text in literals(path):
            assert not FACE_WORDS.search(text), (path, text)
            assert about_faces or not FACES.search(text), (path, text)
    for path in (ROOT / "clip2gan" / "data").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert not FACE_WORDS.search(text), path
        assert not FACES.search(text), path


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_no_default_of_an_option_speaks_of_faces(name: str) -> None:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    for option in command.params:
        if isinstance(option.default, str | tuple):
            assert not FACE_WORDS.search(str(option.default)), option.name
            assert not FACES.search(str(option.default)), option.name


def test_no_default_of_a_domain_speaks_of_faces() -> None:
    domain = Domain()
    assert domain.alignment == "none"
    assert not domain.vocabulary
    assert not FACE_WORDS.search(str(domain))
    assert not FACES.search(str(domain))
    assert PRESETS["small"].focus is None is PRESETS["stylegan2"].focus


def test_nothing_outside_tools_reads_tools() -> None:
    for path in files("stylegan2", "clip2gan"):
        for text in literals(path):
            assert text != "tools", path
            assert not text.startswith("tools/"), path
