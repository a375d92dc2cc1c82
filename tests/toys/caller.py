"""A stage for tests of the code snapshot: it calls a function of a user's file, and tells whose package runs it."""

import importlib.util
import json

import hpc


def run(work):
    path, name = work.config["function"].rsplit(":", 1)
    spec = importlib.util.spec_from_file_location("own", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (work.out / "result.json").write_text(json.dumps({"word": getattr(module, name)(), "package": hpc.__file__}))
    return {}
