"""Has one thread of a process stand still, as one does that waits for ever (ptrace(2)), until either program ends.

Arguments: the process and how the thread's name begins.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000


def main() -> None:
    tasks = Path(f"/proc/{sys.argv[1]}/task").iterdir()
    thread = next(int(task.name) for task in tasks if (task / "comm").read_text().startswith(sys.argv[2]))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (_SEIZE, _INTERRUPT):
        if libc.ptrace(request, thread, None, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("stands still", flush=True)
    # Whose death nobody asks for stays, and its process with it.
    while os.WIFSTOPPED(os.waitpid(thread, _WALL)[1]):
        pass


if __name__ == "__main__":
    main()
