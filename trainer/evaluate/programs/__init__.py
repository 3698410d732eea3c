"""Evaluations that run what a model wrote: pass@k and robustness."""
