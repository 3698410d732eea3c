"""What a run takes, before it starts: length, memory, operations, time."""
