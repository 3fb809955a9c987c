"""DICOM: series in."""

from diffatlas.io.dicom.read import is_dicom, is_dicom_folder, read_dicom

__all__ = ["is_dicom", "is_dicom_folder", "read_dicom"]
