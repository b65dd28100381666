"""Cats and dogs drawn by rule: a small segmentation dataset that needs no download."""
