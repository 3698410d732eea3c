"""Measurements, each beside its alternative in one run; `RESULTS.md` holds what they gave, and where."""
