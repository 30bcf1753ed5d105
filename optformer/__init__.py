"""OptFormer: a Transformer trained on tuning histories, which suggests trials and predicts objectives.

    from optformer import OptFormer
    model = OptFormer.from_pretrained("path/to/checkpoint")
    model.suggest(problem, trials)

Names are imported on first use: `import optformer` itself loads neither jax nor Vizier, and the trainer's modules never
need Vizier.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optformer.facade import OptFormer
    from optformer.inference.constraints import LinearConstraint
    from optformer.inference.prediction import Prediction

    __version__: str

__all__ = ["LinearConstraint", "OptFormer", "Prediction", "__version__"]

_HOME = {
    "LinearConstraint": "optformer.inference.constraints",
    "OptFormer": "optformer.facade",
    "Prediction": "optformer.inference.prediction",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            value = metadata.version("optformer")
        except metadata.PackageNotFoundError:  # run from a source tree that was never installed
            value = "0+unknown"
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'optformer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
