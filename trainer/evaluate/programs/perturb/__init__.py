"""Perturbations of prompts that keep what is asked for, in four families: see `families.py`."""
