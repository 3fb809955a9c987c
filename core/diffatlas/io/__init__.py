"""Reading and writing volumes: NIfTI, NRRD, MetaImage and DICOM series; every check on bad input; atomic writes.

Whatever is wrong with a file comes out as `diffatlas.errors.BadInput`, one line that names it.
"""

from diffatlas.io.atomic import (
    IMAGE_SUFFIXES,
    atomic_path,
    atomic_paths,
    atomic_write_bytes,
    check_output,
    sweep,
    temporary_folder_in,
)
from diffatlas.io.dicom import (
    DICOM_SUFFIXES,
    is_dicom,
    is_dicom_folder,
    is_dicom_labels,
    read_dicom,
    read_rtstruct,
    write_rtstruct,
    write_seg,
)
from diffatlas.io.images import (
    LABEL_SUFFIXES,
    UNREFERENCED,
    LabelFormat,
    check_label_output,
    describe,
    named_as_labels,
    read_label_ids,
    read_label_map,
    read_structures,
    read_volume,
    write_array,
    write_label_map,
    write_volume,
)
from diffatlas.io.intensity import guess_modality
from diffatlas.io.source import MAX_CHOICES, Limits

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "MAX_CHOICES",
    "UNREFERENCED",
    "LabelFormat",
    "Limits",
    "atomic_path",
    "atomic_paths",
    "atomic_write_bytes",
    "check_label_output",
    "check_output",
    "describe",
    "guess_modality",
    "is_dicom",
    "is_dicom_folder",
    "is_dicom_labels",
    "named_as_labels",
    "read_dicom",
    "read_label_ids",
    "read_label_map",
    "read_rtstruct",
    "read_structures",
    "read_volume",
    "sweep",
    "temporary_folder_in",
    "write_array",
    "write_label_map",
    "write_rtstruct",
    "write_seg",
    "write_volume",
]
