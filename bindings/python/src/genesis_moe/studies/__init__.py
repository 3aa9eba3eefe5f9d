"""Studies: questions about training, answered by one command each.

Every study writes one JSON record (raw numbers of every run, settings, versions,
machine, commit, seeds); its figures and tables are generated from that record.
"""
