"""The EvaByte-style byte model: trunk, EVA attention, multi-byte heads with their loss, cached inference."""
