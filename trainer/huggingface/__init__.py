"""Models out to, and in from, folders in the Hugging Face format of EvaByte."""
