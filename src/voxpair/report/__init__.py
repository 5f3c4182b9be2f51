"""One offline HTML page of a run. Reads result files only, so that any tool may have written them.

``results`` reads a run folder; ``verdict``, ``quality`` and ``audit`` put it into words, ``masks`` and ``training``
into tables and curves, ``sheets`` and ``viewer`` into pictures of volumes; ``page`` writes ``report.html`` and holds
the contract of the files.
"""
