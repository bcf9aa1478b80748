"""These tests want PyTorch, which `make test-torch` installs; where it is missing they are left out."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
