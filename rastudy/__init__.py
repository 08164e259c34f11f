"""Recognition-aware image processing: a study that you can run."""

import os

# Sums in the order that every x86 CPU with AVX2 knows: the embedded study gives the same bits on all of them, for up to a third
# more time. The libraries read these variables once, at their first sum. RASTUDY_ARITHMETIC=native leaves them alone.
PORTABLE = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
if os.environ.setdefault("RASTUDY_ARITHMETIC", "portable") == "portable":
    for _name, _value in PORTABLE.items():
        os.environ.setdefault(_name, _value)


def is_native() -> bool:
    """Whether this process computes in the CPU's own arithmetic."""
    return os.environ["RASTUDY_ARITHMETIC"] == "native"


def use_native() -> None:
    """Let this process, before its first sum, and those it starts use the CPU's own instructions: bf16 is fast with them."""
    os.environ["RASTUDY_ARITHMETIC"] = "native"
    for name in (name for name, value in PORTABLE.items() if os.environ.get(name) == value):
        del os.environ[name]
