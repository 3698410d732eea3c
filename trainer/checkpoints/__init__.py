"""Checkpoints: written while training goes on, whole or absent, in folders or on object stores."""
