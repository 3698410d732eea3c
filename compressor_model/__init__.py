"""The neural proxy's model side: byte LM, entropy segmentation, codebook, range coder, compiled encoder.

Torch and numba are imported inside the functions that need them, so that a preprocessing worker with a shipped
artefact starts without torch. `artefact.py` is what is trained once and then only read.
"""
