"""Kernels that start warm: forked from one process that has imported the package already.

A kernel spends most of its start on imports (torch, torchvision, scikit-learn), and the sweep's runs are short and many.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from importlib.metadata import EntryPoint
from multiprocessing.process import BaseProcess
from typing import Any, cast

import pandas
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from rastudy.paths import BATCH, root

# elsewhere the system's libraries may not survive a fork, and kernels start as slowly as any
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = ("rastudy.report.gallery", "rastudy.report.display", "rastudy.training.train")  # what notebooks import
_stopped = threading.Event()


def use_warm_kernels() -> None:
    """Let every kernel that this process starts from now on be a warm one, a child process of one thread.

    Their notices go to ``runs/kernels.log``; what a cell prints or raises is in its notebook.
    """
    # one thread a process: several small networks side by side do more than one with several threads
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", JUPYTER_PREFER_ENV_PATH="1", PYTHONWARNINGS="ignore")
    os.environ[BATCH] = "1"
    entry = EntryPoint("rastudy-warm", f"{__name__}:WarmProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.provisioners[entry.name] = entry
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = entry.name
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # matplotlib reads it on import
    multiprocessing.set_forkserver_preload([__name__, *PRELOADED])
    _stopped.clear()


def stop_kernels() -> None:
    """End every kernel, one that is just being started included."""
    _stopped.set()
    for kernel in multiprocessing.active_children():
        kernel.kill()


class WarmProvisioner(LocalProvisioner):
    """Starts ipykernel in a child process of ours instead of a new interpreter."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel that ``cmd`` names (``python -m ipykernel_launcher -f FILE ...``)."""
        arguments, self.cwd = cmd[cmd.index("-f") :], kwargs.get("cwd") or os.getcwd()
        context: Any = multiprocessing.get_context(START_METHOD)
        kernel = context.Process(target=_run_kernel, args=(arguments, dict(kwargs["env"]), self.cwd), daemon=True)
        kernel.start()
        if _stopped.is_set():
            kernel.kill()
        self.process = cast(Any, _Process(kernel))
        self.pid = self.pgid = kernel.pid
        return self.connection_info


class _Process:
    """A child process with the methods of subprocess.Popen that Jupyter calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_kernel(arguments: list[str], environment: dict[str, str], cwd: str) -> None:
    os.setsid()  # Ctrl-C is for the sweep, which ends its kernels itself
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    folder = root() / "runs"  # none where a notebook is run outside of any study
    log = os.open(folder / "kernels.log" if folder.is_dir() else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    pandas.set_option("display.max_columns", 20)  # a notebook's; imported outside of one, pandas has taken a terminal's
    IPKernelApp.launch_instance(arguments)


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
