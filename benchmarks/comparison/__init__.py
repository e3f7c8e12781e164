"""What every comparison of teachers shares: grids of equal size, successive halving on dev, training, final students.

`methods` says what a method is, `work` what worker processes do, `engine` what is done in which order and what rows are
kept of it. A benchmark brings its tasks, its table of methods and its report.
"""
