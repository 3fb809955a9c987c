"""Names of structures and modalities as the data sets write them, brought to one spelling.

Label *ids* mean something else in every release; names do not. Everything that maps labels goes through `canonical`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffatlas.geometry.volume import Modality

# MM-WHS and the papers around it, TotalSegmentator's file names, the Decathlon: other spellings of the same structure.
ALIASES: Mapping[str, str] = {
    "lv": "left ventricle",
    "heart ventricle left": "left ventricle",
    "left heart ventricle": "left ventricle",
    "left ventricle blood cavity": "left ventricle",
    "rv": "right ventricle",
    "heart ventricle right": "right ventricle",
    "right heart ventricle": "right ventricle",
    "right ventricle blood cavity": "right ventricle",
    "la": "left atrium",
    "heart atrium left": "left atrium",
    "left heart atrium": "left atrium",
    "left atrium blood cavity": "left atrium",
    "ra": "right atrium",
    "heart atrium right": "right atrium",
    "right heart atrium": "right atrium",
    "right atrium blood cavity": "right atrium",
    "myo": "myocardium",
    "heart myocardium": "myocardium",
    "left ventricle myocardium": "myocardium",
    "myocardium of the left ventricle": "myocardium",
    "ascending aorta": "aorta",
}

_CT = re.compile(r"\b(ct|cbct|ccta|cta)\b")
_MR = re.compile(r"\b(mr|mri|cmr|t1w?|t2w?|flair|adc|t1gd|pd|dwi)\b")


def canonical(name: str) -> str:
    """One spelling per structure: lower case, blanks for separators, aliases resolved."""
    plain = " ".join(re.split(r"[\s_\-]+", name.strip().lower()))
    return ALIASES.get(plain, plain)


def modality_of(text: str) -> Modality:
    """ "CT", "MRI", "T2", ... as "ct", "mr" or "unknown"."""
    words = re.sub(r"[\W_]+", " ", text.lower())
    if _CT.search(words):
        return "ct"
    return "mr" if _MR.search(words) else "unknown"
