"""Loading: the Topology that a command line names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from streamkit.errors import DefinitionError
from streamkit.topology import Topology


def load_topology(spec: str) -> Topology:
    """The Topology at `file.py`, `file.py:attribute` or `module:attribute`. Raises DefinitionError."""
    target, _, attribute = spec.partition(":")
    module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target, spec)
    found = {name: item for name, item in vars(module).items() if isinstance(item, Topology)}
    if attribute:
        if attribute not in found:
            raise DefinitionError(f"{target} has no Topology {attribute!r}; it has {', '.join(found) or 'none'}")
        return found[attribute]
    distinct = {id(t): name for name, t in found.items()}
    if len(distinct) != 1:
        raise DefinitionError(_which(target, {name: found[name] for name in distinct.values()}))
    return next(iter(found.values()))


def _which(target: str, found: Mapping[str, Topology]) -> str:
    if not found:
        return f'{target} defines no Topology; it should say: app = streamkit.Topology("name")'
    names = [t.name for t in found.values()]
    if len(set(names)) < len(names):
        same = next(n for n in names if names.count(n) > 1)
        return f"{target} has two topologies named {same!r}; they would share their state: rename one"
    return f"{target} has several topologies: say which: {' or '.join(f'{target}:{name}' for name in found)}"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise DefinitionError(f"there is no file {path}; TOPOLOGY is file.py, file.py:attribute or module:attribute")
    resolved = path.resolve()
    if (resolved.parent / "__init__.py").is_file() and (found := _import_in_package(resolved)) is not None:
        return found
    name = resolved.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(resolved):
        return known
    if known is not None:  # another module has the name: `import json` must go on meaning what it did
        name = f"streamkit_topology_{name}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(resolved.parent) not in sys.path:
        sys.path.insert(0, str(resolved.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_in_package(file: Path) -> ModuleType | None:
    """The module by its full name, so that its own imports work, and that it is one module however it is named (what an
    agent has pickled knows its class by that name). None where another package has the name."""
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    if not all(part.isidentifier() for part in parts):
        return None
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    package = importlib.import_module(parts[0])
    if (folder / parts[0]).resolve() not in {Path(entry).resolve() for entry in getattr(package, "__path__", ())}:
        return None
    return importlib.import_module(".".join(parts))


def _import_module(name: str, spec: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise DefinitionError(
                f"there is no module {name!r} (for {spec!r}); a file is given as path/file.py"
            ) from None
        raise
