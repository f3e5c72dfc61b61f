"""What a task of the fault tests does: `worker.py LEDGER SECONDS`, under the names Flakes gives it.

It holds an exclusive lock on a file of its task for as long as anything of it lives, its daemonised child
included, and notes start and end in the task's ledger. A second execution that overlaps a first one
finds the lock taken and says so there. Its output follows from its inputs alone.
"""

import fcntl
import os
import sys
import time

ledger, seconds = sys.argv[1], float(sys.argv[2])
key, assignment = os.environ["FLAKES_TASK_KEY"], os.environ["FLAKES_ASSIGNMENT_ID"]


def note(word: str) -> None:
    line = f"{word} {assignment} {os.environ['FLAKES_ATTEMPT']} {time.time():.6f}\n"
    fd = os.open(f"{ledger}/{key}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


lock = os.open(f"{ledger}/.{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
os.set_inheritable(lock, True)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("overlap")
note("start")
if os.fork() == 0:
    # A stranger to every process group of the task, which would outlive it by far.
    os.setsid()
    os.execvp("sleep", ["sleep", "3600"])
value = 1
for directory, _, names in os.walk(os.environ["FLAKES_INPUTS"]):
    for name in names:
        if name == "value":
            with open(f"{directory}/{name}") as file:
                value += int(file.read())
os.write(1, f"line 1 of {key}\n".encode())
time.sleep(seconds)
os.write(1, f"line 2 of {key}\n".encode())
with open(os.environ["FLAKES_OUTPUTS"] + "/value", "w") as file:
    file.write(str(value))
if key.endswith("0"):
    with open(os.environ["FLAKES_OUTPUTS"] + "/bulk", "w") as file:
        file.write(f"{key}\n" * 5_000)
note("end")
