"""Bytes from a trained model: in few passes, exactly sampled, in batches and streams."""
