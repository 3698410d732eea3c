"""Evaluations of trained models, each a command of its own."""
