"""The neural proxy's model side: byte LMs, entropy segmentation, codebook, range coder, compiled encoder.

Torch and numba are imported inside the functions that need them, so that a preprocessing worker with a shipped
artefact starts without torch. `network.py`, torch through and through, is itself imported so. `artefact.py` is what is
trained once and then only read.
"""
