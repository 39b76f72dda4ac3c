"""xsap links clinical and biomedical terms in any language to the concepts of a terminology.

Each public name is imported when it is first used, so that `import xsap` is instant and loads no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xsap.encoding.encoder import Encoder
    from xsap.evaluation.calibration_report import calibrate
    from xsap.evaluation.protocols import evaluate
    from xsap.linking.build import build_index
    from xsap.linking.index import Index
    from xsap.linking.linker import Linker
    from xsap.linking.ranking import Filter
    from xsap.linking.results import Candidate, Result
    from xsap.tabular.link_file import link_file
    from xsap.terms.terminology import Terminology

__all__ = [
    "Candidate",
    "Encoder",
    "Filter",
    "Index",
    "Linker",
    "Result",
    "Terminology",
    "build_index",
    "calibrate",
    "evaluate",
    "link_file",
]
__version__ = "0.1.0"

_MODULES = {
    "Candidate": "linking.results",
    "Encoder": "encoding.encoder",
    "Filter": "linking.ranking",
    "Index": "linking.index",
    "Linker": "linking.linker",
    "Result": "linking.results",
    "Terminology": "terms.terminology",
    "build_index": "linking.build",
    "calibrate": "evaluation.calibration_report",
    "evaluate": "evaluation.protocols",
    "link_file": "tabular.link_file",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'xsap' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"xsap.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
