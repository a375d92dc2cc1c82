"""The vLLM engine: continuous batching and prefix caching, on GPUs or (package vllm-cpu) on the CPU.

On a CPU it runs inside this process, eagerly (2-5 s start instead of 30), and asks the kernel for the AMX registers
first: vLLM's kernels use them without asking, and a process that never asked dies of SIGILL on short prompts.

Budget forcing sends a grown prompt again at every round; prefix caching makes that cheap (whole blocks only: 16
tokens on a GPU, 128 on a CPU). In bf16, which sequences share a batch can flip a near-tie between two tokens.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any, Literal

from hpc.errors import StageError
from hpc.infer.engine import Completion, Request, Setup, before_stop, silent
from hpc.infer.vocabulary import count_parameters, open_vocabulary, split_reference

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
"""Linux x86-64: the system call, its request, and the AMX tile data that it is for."""
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


class VllmEngine:
    """A causal language model in vLLM."""

    def __init__(self, setup: Setup) -> None:
        self.vocabulary = open_vocabulary(setup.model)
        self.num_parameters = count_parameters(setup.model)
        name, revision = split_reference(setup.model)
        num_gpus = _prepare()
        from transformers import AutoConfig
        from vllm import LLM

        config = AutoConfig.from_pretrained(name, revision=revision)

        self.llm: Any = LLM(
            model=name,
            revision=revision,
            tokenizer_revision=revision,
            dtype=DTYPES[setup.dtype],
            seed=0,
            max_model_len=_context(config, setup.context_tokens),
            max_num_seqs=setup.batch_size,
            enable_prefix_caching=True,
            enforce_eager=num_gpus == 0,
            disable_log_stats=True,
            tensor_parallel_size=tensor_parallel(config, num_gpus, setup.tensor_parallel),
            **({"gpu_memory_utilization": setup.gpu_memory_fraction} if num_gpus else {}),
        )
        self.context_tokens = int(self.llm.llm_engine.model_config.max_model_len)
        self.beat: Callable[[], None] = silent

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The continuations of `requests`, in their order."""
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(r.prompt_ids)} for r in requests],
            [_sampling(r) for r in requests],
            use_tqdm=_pulse(self.beat),
        )
        return [self._completion(r, o.outputs[0]) for r, o in zip(requests, outputs, strict=True)]

    def close(self) -> None:
        """Shut vLLM down and give the memory back."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        cleanup_dist_env_and_memory()

    def _completion(self, request: Request, output: Any) -> Completion:
        drawn, words = list(output.token_ids), self.vocabulary
        if output.finish_reason == "stop" and isinstance(output.stop_reason, str):
            return before_stop(words, drawn, (output.stop_reason,))
        if output.finish_reason == "stop":
            return Completion(drawn[:-1], words.decode(drawn[:-1]), "stop", words.piece(drawn[-1]), len(drawn))
        if output.finish_reason != "length":
            raise StageError(
                f"vLLM ended a request with {output.finish_reason}",
                where="generate.engine vllm",
                next="hpc submit again: finished chunks are kept",
            )
        return Completion(drawn, words.decode(drawn), "length", "", len(drawn))


def _pulse(beat: Callable[[], None]) -> Callable[..., Any]:
    """A progress bar that shows nothing and beats at every finished request: vLLM has no other hook in a long call."""
    from tqdm import tqdm

    class Pulse(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "file": StringIO(), "mininterval": 3600})

        def update(self, n: float | None = 1) -> bool | None:
            beat()
            return super().update(n)

    return Pulse


def _sampling(request: Request) -> Any:
    """A request in vLLM's words. End tokens are ordinary stops here, so that they are treated like the others."""
    from vllm import SamplingParams

    drawn = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    return SamplingParams(
        max_tokens=request.max_tokens,
        min_tokens=min(request.min_tokens, request.max_tokens),
        ignore_eos=True,
        stop_token_ids=sorted(request.stop_ids),
        stop=list(request.stop_texts),
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        detokenize=bool(request.stop_texts),
        **(drawn if request.temperature > 0 else {"temperature": 0.0}),
    )


def _prepare() -> int:
    """Set what has to be set before vLLM starts; returns the number of visible GPUs.

    Raises:
        StageError: vLLM is not installed, or was built for another kind of machine.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus == 0:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        request_amx()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING" if num_gpus else "ERROR")
    if importlib.util.find_spec("vllm") is None:
        raise StageError(
            "vLLM is not installed here",
            where="generate.engine",
            why=f"no module vllm; {num_gpus} GPUs are visible",
            next=_advice(num_gpus),
        )
    from vllm.platforms import current_platform

    if (num_gpus == 0) != current_platform.is_cpu():
        raise StageError(
            "the installed vLLM is for another kind of machine",
            where="generate.engine",
            why=f"its platform is {current_platform.device_type or 'none'}; {num_gpus} GPUs are visible",
            next=_advice(num_gpus),
        )
    return num_gpus


def _advice(num_gpus: int) -> str:
    install = "pip install 'thinkscale[vllm]'" if num_gpus else "install vllm-cpu as constraints/ says (make setup)"
    return f"{install}, or set generate.engine=transformers"


def request_amx() -> None:
    """Ask Linux for the AMX tile registers, for this process and its threads. Harmless where there are none."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


def _context(config: Any, wanted: int | None) -> int | None:
    """`wanted`, at most the model's own limit (vLLM refuses more)."""
    own = getattr(config, "max_position_embeddings", None)
    return min(wanted, own) if wanted and own else wanted


def tensor_parallel(config: Any, num_gpus: int, wanted: int | Literal["auto"]) -> int:
    """GPUs that share the model: `wanted`, or the most that divide its heads as vLLM needs it (7B on 8 GPUs: 4)."""
    if wanted != "auto":
        return wanted
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    shared = int(getattr(config, "num_key_value_heads", 0) or heads)
    fits = (n for n in range(max(1, num_gpus), 1, -1) if heads % n == 0 and (shared % n == 0 or n % shared == 0))
    return next(fits, 1)
