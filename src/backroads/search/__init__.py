"""Metaparameter search: many small trainings, on one machine or many, and what came of them.

``settings`` says what is searched, ``space`` what a trial may be, ``storage`` where trials are kept, ``ledger`` who
trains which and that none is lost, ``sampling`` what is tried next, ``desk`` is where a worker asks, ``trial`` trains
one, ``worker`` one after the other, ``run`` starts workers and watches, ``results`` sums up, ``promote`` trains the
best ones again.
"""
