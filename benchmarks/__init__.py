"""Benchmarks: one module per table or figure, one command line over all of them.

`python -m benchmarks --help` lists them. Every benchmark appends rows to a file and makes its tables and figures from
that file alone. What they share:

- `benchmarks.options.CommonOptions`: the options that every benchmark has;
- `benchmarks.registry.BENCHMARKS`: the names;
- `teachenv.experiment.rows`: result rows and the files they live in;
- `teachenv.experiment.statistics`: means and intervals over seeds;
- `teachenv.experiment.tables`, `.figures`, `.report`: what reports are made of;
- `teachenv.experiment.cases`: pieces of work, done where their rows are not there yet, on several processes or on Ray.
"""
