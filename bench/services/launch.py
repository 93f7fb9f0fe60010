"""Runs one service process so that it cannot outlive its owner.

    python launch.py PIDFILE hold  -- COMMAND...          become COMMAND (a detached service)
    python launch.py PIDFILE guard WIPE_DIR -- COMMAND... run COMMAND and watch the owner

With `guard` the owner keeps the write end of our standard input. When it closes, because the
owner ended in any way, kill -9 included, COMMAND's process group is killed and WIPE_DIR removed. A
pipe is used rather than the kernel's parent-death signal alone because that signal follows the
owner's *thread*; the signal is set on COMMAND as well, so that killing this guard kills COMMAND.

Only the standard library's light modules are imported: this starts in some 20 ms.
"""

import os
import select
import signal
import sys


def die_with_parent() -> None:
    """Linux: ask for SIGKILL when the parent ends. Elsewhere the pipe is the only watch."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def become(pidfile: str, command: list[str]) -> None:
    """Write our pid where a later run finds it, then turn into the command."""
    temporary = f"{pidfile}.tmp"
    with open(temporary, "w") as handle:
        handle.write(str(os.getpid()))
    os.replace(temporary, pidfile)
    os.execvp(command[0], command)


def kill_group(pid: int, signal_number: int) -> None:
    try:
        os.killpg(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            return


def guard(pidfile: str, wipe_dir: str, command: list[str]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        die_with_parent()
        if os.getppid() == 1:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            become(pidfile, command)
        finally:
            os._exit(127)
    signal.signal(signal.SIGTERM, lambda *_: kill_group(pid, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 64)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status) & 0xFF
        if 0 in readable and not os.read(0, 64):
            kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            import shutil

            shutil.rmtree(wipe_dir, ignore_errors=True)
            return 0


def main() -> int:
    pidfile, mode, *rest = sys.argv[1:]
    at = rest.index("--")
    command = rest[at + 1 :]
    if mode == "hold":
        become(pidfile, command)
    return guard(pidfile, rest[0], command)


if __name__ == "__main__":
    sys.exit(main())
