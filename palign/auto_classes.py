"""transformers' Auto classes learn of palign's classifier when they are loaded, and not before.

transformers has no entry point for models of other packages: a class is known once somebody calls `register`, which
needs transformers loaded. `import palign` must not load it. So a finder in `sys.meta_path` waits for the two modules
of the Auto classes and registers right after each is executed; where they are loaded already, at once. Nothing of
transformers is changed, and the finder is taken out when both have come.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["register_when_loaded"]

HERE = "palign.models.classifier"
CONFIGS, MODELS = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"


def _register_config(module: ModuleType) -> None:
    config = importlib.import_module(f"{HERE}.configuration_palign_reward").PalignRewardConfig
    module.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_model(module: ModuleType) -> None:
    config = importlib.import_module(f"{HERE}.configuration_palign_reward").PalignRewardConfig
    model = importlib.import_module(f"{HERE}.modeling_palign_reward").PalignRewardForSequenceClassification
    module.AutoModelForSequenceClassification.register(config, model, exist_ok=True)


REGISTER: dict[str, Callable[[ModuleType], None]] = {CONFIGS: _register_config, MODELS: _register_model}


class _ThenCall(Loader):
    """The loader of a module, and a call once the module is executed."""

    def __init__(self, loader: Any, then: Callable[[ModuleType], None]) -> None:
        self.loader, self.then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.then(module)


class _Waiting(MetaPathFinder):
    """Finds what everybody finds, and sees to it that something is called after some modules are executed."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        self.names.discard(fullname)
        if not self.names and self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenCall(spec.loader, REGISTER[fullname])
        return spec


def register_when_loaded() -> None:
    """Register what is loaded already, and wait for the rest."""
    missing = {name for name in REGISTER if name not in sys.modules}
    for name in REGISTER:
        if name not in missing:
            REGISTER[name](sys.modules[name])
    if missing:
        sys.meta_path.insert(0, _Waiting(missing))
