"""`python -m pipelines report`: what a dataset, runs and a study came to, as one self-contained HTML page."""
