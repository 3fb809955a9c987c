"""Data sets: what lies in a folder, and how one of its cases becomes what a model is trained on.

`scan` lists a source as `Case`s, whatever its layout; `prepare_all` brings them into a model's space. Adding a source
is one file beside `mmwhs` and one line in `layouts`.
"""

from diffatlas.data.anatomies import scan as scan_anatomies
from diffatlas.data.cache import check_cache_path, write_cache
from diffatlas.data.case import Case, Centre, Collection, Drawn, DrawnAnatomy, LabelFile, Refused
from diffatlas.data.drawn import scan as scan_phantom
from diffatlas.data.labels import read_labels
from diffatlas.data.layouts import LAYOUTS, Layout, find_layout, scan
from diffatlas.data.names import canonical
from diffatlas.data.pool import Outcome, default_workers, prepare_all, quiet
from diffatlas.data.resample import REACH, Facts, Plan, PreparedCase, phantom_case, prepare_case, with_margin
from diffatlas.data.schemes import SCHEMES, check_annotated, named_scheme, scheme_of

__all__ = [
    "LAYOUTS",
    "REACH",
    "SCHEMES",
    "Case",
    "Centre",
    "Collection",
    "Drawn",
    "DrawnAnatomy",
    "Facts",
    "LabelFile",
    "Layout",
    "Outcome",
    "Plan",
    "PreparedCase",
    "Refused",
    "canonical",
    "check_annotated",
    "check_cache_path",
    "default_workers",
    "find_layout",
    "named_scheme",
    "phantom_case",
    "prepare_all",
    "prepare_case",
    "quiet",
    "read_labels",
    "scan",
    "scan_anatomies",
    "scan_phantom",
    "scheme_of",
    "with_margin",
    "write_cache",
]
