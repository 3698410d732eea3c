"""The paper's comparison at the size one can afford: many runs, one plan, one table."""
