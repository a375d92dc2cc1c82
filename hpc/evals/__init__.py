"""Stage `grade`: tasks (what is asked), graders (is it right), statistics (how sure are we)."""

VERSION = 1
