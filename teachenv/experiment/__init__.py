"""Experiments: methods compared over tasks and seeds, from cases to rows, tables, figures and a page."""
