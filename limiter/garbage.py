"""The garbage collector of a process that does the same small things all the time.

A call, and an entry of a pass, makes no cycles; its objects go when it ends. At the default
thresholds the collector takes a tenth of a busy process's time all the same, most of it for what
was loaded at the start.
"""

from __future__ import annotations

import gc

# So many more objects made than freed bring a collection: a few thousand calls under way.
_YOUNG_OBJECTS_MAX = 50_000


def spare_collections() -> None:
    """Keeps the collector away from what is there now, and from looking at every few calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX, 20, 50)
