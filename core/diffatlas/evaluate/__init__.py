"""Experiments: an atlas and baselines trained on the same cases with the same arithmetic, scored on cases never seen.

`protocol` is what is asked, `baselines` what the atlas is measured against, `runs` does the work (and does nothing
twice), `tables` says what came out.
"""
