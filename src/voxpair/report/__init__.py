"""One offline HTML page of a run. Reads result files only, so that any tool may have written them.

``results`` reads a run folder, ``figures`` draws, ``page`` words the verdict and writes ``report.html``.
"""
