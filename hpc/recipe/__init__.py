"""WHAT the user wants: the schema, the loader, the sweep. Nothing here imports torch or pandas."""
