"""DICOM: series in through pydicom, checked slice by slice; label maps out and in as SEG and RTSTRUCT."""

from diffatlas.io.dicom.files import SUFFIXES as DICOM_SUFFIXES
from diffatlas.io.dicom.files import is_dicom, is_dicom_folder
from diffatlas.io.dicom.read import is_dicom_labels, read_dicom
from diffatlas.io.dicom.rtstruct import read_rtstruct, write_rtstruct
from diffatlas.io.dicom.seg import write_seg

__all__ = [
    "DICOM_SUFFIXES",
    "is_dicom",
    "is_dicom_folder",
    "is_dicom_labels",
    "read_dicom",
    "read_rtstruct",
    "write_rtstruct",
    "write_seg",
]
