"""From a corpus to documents: what is listed, how it is cut into units, and what a unit's bytes hold."""
