"""Many volumes, one request, any number of processes: labels and a report for each, whatever becomes of the others.

`find_cases`, `read_manifest`, `find_bids` and `find_dicom` list cases; `Cohort` runs a request on them, `Scheduled` on
a cluster of dask's; `collect` makes one table of what they left. A case is done when its report stands beside its
labels, and the report is written last.
"""

from diffatlas.cohort.bids import find_bids
from diffatlas.cohort.case import READABLE, Case, State, Status
from diffatlas.cohort.collect import collect, write_table
from diffatlas.cohort.dicom import find_dicom
from diffatlas.cohort.find import cases_of, find_cases
from diffatlas.cohort.manifest import is_manifest, read_manifest
from diffatlas.cohort.run import MAX_WORKERS, Cohort
from diffatlas.cohort.scheduler import Scheduled

__all__ = [
    "MAX_WORKERS",
    "READABLE",
    "Case",
    "Cohort",
    "Scheduled",
    "State",
    "Status",
    "cases_of",
    "collect",
    "find_bids",
    "find_cases",
    "find_dicom",
    "is_manifest",
    "read_manifest",
    "write_table",
]
