"""Many series, one after the other or side by side: what is found, run, recorded and shown of a cohort."""
