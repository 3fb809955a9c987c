"""Experiments: atlases and baselines, trained on the same cases with the same arithmetic, scored on unseen cases.

`protocol`: the configuration; `baselines`: other methods; `runs`: training and scoring, each done once; `tables`:
results.
"""
