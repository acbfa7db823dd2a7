"""The integrations are tested in an environment that has their packages: `make integrations`.

Where they are not there, one test runs those of `packages` in that environment.
"""

from __future__ import annotations

from importlib.util import find_spec

HAS_PACKAGES = find_spec("litellm") is not None

collect_ignore = ["test_environment.py" if HAS_PACKAGES else "packages"]
