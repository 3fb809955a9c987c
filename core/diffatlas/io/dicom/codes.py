"""Structures as codes: SNOMED CT for those that ship, a private code with the name for all others.

The codes are those of DICOM PS3.16 (CID 7151 and 12305), which pydicom carries too; `tests/io/test_dicom_labels.py`
compares. MM-WHS's myocardium is that of the left ventricle. SNOMED CT has no code for the head or the tail of the
hippocampus in DICOM's lists: the two parts are the hippocampus with a modifier.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from diffatlas.geometry.volume import Structure

PRIVATE_SCHEME = "99DIFFATLAS"


class Code(NamedTuple):
    """Value, coding scheme and meaning."""

    value: str
    scheme: str
    meaning: str


ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
CODES = {
    "left ventricle": (Code("87878005", "SCT", "Left ventricle"), None),
    "right ventricle": (Code("53085002", "SCT", "Right ventricle"), None),
    "left atrium": (Code("82471001", "SCT", "Left atrium"), None),
    "right atrium": (Code("73829009", "SCT", "Right atrium"), None),
    "myocardium": (Code("49848007", "SCT", "Left Ventricle Myocardium"), None),
    "aorta": (Code("15825003", "SCT", "Aorta"), None),
    "ascending aorta": (Code("54247002", "SCT", "Ascending aorta"), None),
    "pulmonary artery": (Code("81040000", "SCT", "Pulmonary artery"), None),
    "hippocampus": (HIPPOCAMPUS, None),
    "anterior hippocampus": (HIPPOCAMPUS, Code("255549009", "SCT", "Anterior")),
    "posterior hippocampus": (HIPPOCAMPUS, Code("255551008", "SCT", "Posterior")),
}


def code_of(structure: Structure) -> tuple[Code, Code | None]:
    """Code of a structure and its modifier or None."""
    known = CODES.get(structure.name.lower())
    return known or (Code(str(structure.id), PRIVATE_SCHEME, structure.name[:64]), None)


def name_by_code(item: Any) -> str:
    """The name that a structure has here, by its item of a code sequence; "" for codes that are not known.

    Codes of SNOMED RT (T-32600), which DICOM used before SNOMED CT, are recognised as well. A modifier (anterior, left)
    belongs to the structure: with another modifier it is another structure.
    """
    from pydicom.sr.coding import Code as Standard

    def same(one: Code, given: Any) -> bool:
        value = str(given.get("CodeValue", "") or given.get("LongCodeValue", ""))
        scheme, meaning = str(given.get("CodingSchemeDesignator", "")), str(given.get("CodeMeaning", ""))
        # "99SDM" and "SRT" carry the same values.
        scheme = "SRT" if scheme in ("99SDM", "SNM3") else scheme
        return bool(Standard(*one) == Standard(value, scheme, meaning))

    modifiers = item.get("SegmentedPropertyTypeModifierCodeSequence") or []
    for name, (code, modifier) in CODES.items():
        if not same(code, item) or len(modifiers) != (modifier is not None):
            continue
        if modifier is None or same(modifier, modifiers[0]):
            return name
    return ""


def code_item(code: Code) -> Any:
    """A code as an item of a DICOM sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item
