"""What a job of any size takes, before it is run."""
