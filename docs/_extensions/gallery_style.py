"""How the gallery's figures look, and what each of its pages starts from."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from cycler import cycler

import fastbn

# Okabe & Ito: told apart by colour-blind eyes too.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def reset(gallery_conf: dict[str, Any], filename: str) -> None:
    """Set matplotlib's defaults before each page: sphinx-gallery's ``reset_modules`` calls this."""
    fastbn.set_num_threads(1)  # the pages' arrays are small, and times are those of one thread
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "figure.figsize": (8.0, 3.4),
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )
