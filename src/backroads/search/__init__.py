"""Search of coefficients, operations and rates: many short trainings, on one machine or many, kept by Optuna.

:mod:`~backroads.search.settings` and :mod:`~backroads.search.space` say what varies, :mod:`~backroads.search.storage`
opens Optuna's storage, :mod:`~backroads.search.study` hands out trials and accounts for them,
:mod:`~backroads.search.worker` trains them one after the other, :mod:`~backroads.search.run` starts workers and
watches, :mod:`~backroads.search.results` sums up, :mod:`~backroads.search.promote` trains the best again.
"""
