"""Stage `data`: load, filter, select, mix and decontaminate training examples."""

VERSION = 1
