"""dcgan-eval: measure how good an unsupervised image representation is, and prove it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.2.0"

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    # How often a thread looks whether the others are done before it sleeps. By GNU OpenMP's 300,000 it keeps its
    # processor, and beside another process every product waits for a time slice; 1,000 cost nothing when it is quiet.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Public name -> module that defines it; imported on first use, so that `import dcgan_eval` costs nothing.
_PUBLIC = {
    "DcganEvalError": "dcgan_eval.errors",
    "Encoder": "dcgan_eval.features.taps",
    "FeatureStore": "dcgan_eval.features.store",
    "ImageSet": "dcgan_eval.data.imageset",
    "L2SVM": "dcgan_eval.svm.linear_svc",
    "Record": "dcgan_eval.records",
    "evaluate": "dcgan_eval.protocols.evaluate",
    "extract": "dcgan_eval.features.extract",
    "load_data": "dcgan_eval.data.catalog",
    "load_encoder": "dcgan_eval.features.encoders",
    "load_record": "dcgan_eval.records",
    "run_protocol": "dcgan_eval.protocols.runner",
    "Place": "dcgan_eval.protocols.settings",
    "Settings": "dcgan_eval.protocols.settings",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dcgan_eval' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
