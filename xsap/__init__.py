"""xsap links clinical and biomedical terms in any language to the concepts of a terminology.

The public names are `Linker`, `Encoder` and `Terminology`; each is imported when it is first used, so `import xsap` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xsap.encoding.encoder import Encoder
    from xsap.linking.linker import Linker
    from xsap.terms.terminology import Terminology

__all__ = ["Encoder", "Linker", "Terminology"]
__version__ = "0.1.0"

_HOMES = {"Encoder": "xsap.encoding.encoder", "Linker": "xsap.linking.linker", "Terminology": "xsap.terms.terminology"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xsap' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
