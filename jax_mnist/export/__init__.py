"""Export: a trained model as a portable program, as a web page, or as PyTorch's state_dict."""

from .program import ExportedModel, export_model, load_exported
from .pytorch import from_state_dict, to_state_dict
from .web_page import export_page

__all__ = ["ExportedModel", "export_model", "export_page", "from_state_dict", "load_exported", "to_state_dict"]
