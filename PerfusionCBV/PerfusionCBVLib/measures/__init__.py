"""Numbers of regions: what was drawn, what is measured on it, and how it is written."""
