"""WHERE it runs: profiles, submission, the ledger, watching jobs, and the worker that does the stages on a node."""
