"""Analysis: errors, calibration, ensembles and reports of trained models."""

from typing import TYPE_CHECKING

import lazy_loader

from .ensembles import Summary, ensemble_labels, summarize
from .interpret import (
    ConfusedPair,
    Example,
    Interpretation,
    gradient_norms,
    interpret,
    most_confused,
    predict_logits,
    top_losses,
)

if TYPE_CHECKING:
    from .report import write_report

__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"report": ["write_report"]})  # it imports matplotlib

__all__ = [  # noqa: RUF022, from the logits to the report
    "predict_logits",
    "most_confused",
    "ConfusedPair",
    "top_losses",
    "gradient_norms",
    "interpret",
    "Interpretation",
    "Example",
    "write_report",
    "ensemble_labels",
    "summarize",
    "Summary",
]
