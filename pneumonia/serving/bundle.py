"""The modules of `served` as the one file of code that MLflow keeps with a model.

MLflow can keep several files (`code_paths`), but puts them on `sys.path` under their names: of two versions in one
process the second would run the code of the first.
"""

import ast
from importlib.resources import files

from pneumonia import served

FILE = "served.py"  # of a package, and where MLflow copies it to
# Each after those that it imports.
MODULES = (
    *("limits", "formats", "greys", "jpeg", "png", "lossless", "dicom_header", "dicom_window", "dicom_frame"),
    *("dicom", "film", "heatmap", "package_files", "predictor", "refusals", "answer_log", "counters", "model"),
)
END = "\n\nimport mlflow.models\n\nmlflow.models.set_model(ServedModel())\n"


def code() -> str:
    """The source of all modules in a row, without the imports of one another.

    Raises:
        ValueError: two modules give one name to different things.
    """
    parts: list[str] = []
    known: dict[str, str] = {}
    for module in MODULES:
        source = (files(served) / f"{module}.py").read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pneumonia."):
                lines[node.lineno - 1 : node.end_lineno] = [""] * len(lines[node.lineno - 1 : node.end_lineno])
            for name in _names(node):
                text = ast.unparse(node)
                if known.setdefault(name, text) != text:
                    raise ValueError(f"{name} is more than one thing among the modules of pneumonia.served")
        parts.append("\n".join(lines).strip())
    return "\n\n\n".join(parts) + END


def _names(node: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
