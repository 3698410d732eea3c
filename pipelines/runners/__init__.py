"""Where units run: the Beam graph, local processes, Dask, and what a job needs of any of them."""
