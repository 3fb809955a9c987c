"""DICOM: series in, through pydicom; every geometry and every rescale checked slice by slice."""

from diffatlas.io.dicom.files import is_dicom, is_dicom_folder
from diffatlas.io.dicom.read import read_dicom

__all__ = ["is_dicom", "is_dicom_folder", "read_dicom"]
