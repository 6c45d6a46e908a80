from __future__ import annotations

import os

from hypothesis import settings

# the same examples at every run where a failure must mean a change, new ones at every run elsewhere
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")
