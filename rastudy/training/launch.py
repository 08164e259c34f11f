"""Several processes that train one run: the command for torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from rastudy.config import NOT_APPLICABLE, Config
from rastudy.errors import StudyError

RESTARTS = 3  # from the last checkpoint, after one of the processes has died
# By default one store serves every restart (torch 2.14), and new processes may find addresses of dead ones there and wait.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
NO_SOURCE = ("source_arch", NOT_APPLICABLE)  # of pretrainings: otherwise the preset's source would be taken


def torchrun(config: Config, log: Callable[[str], object], *arguments: str) -> None:
    """Run ``rastudy train`` for a config by ``config.processes`` processes of this machine, its lines going to ``log``.

    If one process dies, all are stopped and restarted from the last checkpoint, ``RESTARTS`` times at most.
    """
    settings = flags_of(asdict(config))
    launcher = ["--standalone", f"--max-restarts={RESTARTS}", f"--nproc-per-node={config.processes}", "-m", "rastudy", "train"]
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, *settings, *arguments]
    last = ""
    env = os.environ | OWN_STORE
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        try:
            for line in process.stdout:
                log(last := line.rstrip())
                if last.startswith("error: "):  # a restart would fail in the same way
                    raise StudyError(last.removeprefix("error: "))
        except BaseException:  # an interruption, too
            process.terminate()
            raise
    if process.returncode:
        raise StudyError(f"torchrun ended with status {process.returncode}: {last}")


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """The command line of ``rastudy train`` for a run's settings."""
    empty = {"", NOT_APPLICABLE}
    values = {name: value for name, value in settings.items() if value not in empty or (name, value) == NO_SOURCE}
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
