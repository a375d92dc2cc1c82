"""From graded samples to the paper's tables and figures, beside the published numbers.

    hpc report sweeps/mini.yaml

collect (artifacts -> rows) -> tables, figures -> report (HTML page, CSV, markdown). published/*.csv are the papers'
own numbers, each with its source.
"""
