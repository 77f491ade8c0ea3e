"""Find the locals of ft.py that hide one of its own functions or classes; `make check` runs it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def name_bound_by(node: ast.AST) -> str:
    """Return the name that a node gives to something, or nothing."""
    if isinstance(node, ast.Name):
        return "" if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.alias):  # `import a.b` binds a
        return (node.asname or node.name).partition(".")[0]
    return getattr(node, "arg" if isinstance(node, ast.arg) else "name", None) or ""


def main(path: Path) -> int:
    """Print a line for each such local; the exit code."""
    tree = ast.parse(path.read_bytes())
    kinds = {n.name: "function" for n in tree.body if isinstance(n, FUNCTIONS[:2])}
    kinds.update({n.name: "class" for n in tree.body if isinstance(n, ast.ClassDef)})
    shadows = {
        (getattr(node, "lineno", function.lineno), name_bound_by(node))
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if node is not function and name_bound_by(node) in kinds
    }
    for line, name in sorted(shadows):
        print(f"{path.name}:{line}: local `{name}` shadows the {kinds[name]} `{name}`")
    return 1 if shadows else 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:] or [Path(__file__).parent.parent.parent / "ft.py"])))
