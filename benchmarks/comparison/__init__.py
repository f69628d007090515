"""Our maps beside what a user would take instead: the parts of `compare.py`, in the order in which the data passes.

`cases` makes patients with known truth, `tasks` says what is asked and handed over, `with_*` answer it by one package
each, `child` runs one answer in a process of its own, `summary` and `page`, `plot` report.
"""
