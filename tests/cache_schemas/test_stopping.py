"""Signals stop a process at its safe points, whatever it holds at that moment; a watchdog ends what has none."""

import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest

from kinegraph.cache_schemas import stopping

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["SIGINT", "SIGTERM", "SIGUSR1"]
EXCEPTION = {"SIGINT": "KeyboardInterrupt", "SIGTERM": "Terminated", "SIGUSR1": "Terminated"}
START = """
import os, queue, signal, subprocess, sys, threading, time
from concurrent.futures import Future
from kinegraph.cache_schemas import stopping

def send(name):
    os.kill(os.getpid(), signal.Signals[name])

def send_later(name):
    threading.Timer(0.3, send, [name]).start()
"""


# The signal comes to another thread: this one goes on in C, and runs no handler.
NATIVE = """
import ctypes

def native(name):
    send_later(name)
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.STOPS)
    ctypes.CDLL(None).poll(None, 0, -1)
    print("it came back")
"""


def runs(pid: int) -> bool:
    """Whether there is such a process, other than one that waits for its parent to take note of its end."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def ended(program: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", START + program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_an_import_is_a_safe_point_until_the_stop_is_raised() -> None:
    program = """
stopping.obey()
send("SIGTERM")
try:
    import colorsys
except stopping.Terminated:
    import colorsys
    print(colorsys.__name__)
"""
    assert ended(program) == (0, "colorsys\n", "")


def test_a_native_module_that_drops_exceptions_drops_no_stop() -> None:
    program = """
from importlib.machinery import ExtensionFileLoader, ModuleSpec
class Loader(ExtensionFileLoader):
    def create_module(self, spec):
        try:
            send("SIGTERM")
            import colorsys
            print("created")
        except KeyboardInterrupt:
            print("dropped")
    def exec_module(self, module):
        pass
class Finder:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, Loader(name, "native.so")) if name == "native" else None
sys.meta_path.insert(0, Finder())
stopping.obey()
import native
try:
    import wave
except stopping.Terminated:
    print("stopped")
"""
    assert ended(program) == (0, "created\nstopped\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_raises_at_the_next_safe_point_and_at_each_after_it(name: str) -> None:
    program = f"""
stopping.obey()
with threading.Lock():
    send({name!r})
    for _ in range(1000):
        pass
for attempt in range(2):
    try:
        stopping.check()
    except KeyboardInterrupt as stop:
        print(type(stop).__name__, stopping.exit_code_of(type(stop)))
elsewhere = threading.Thread(target=stopping.check)
elsewhere.start(), elsewhere.join()
"""
    line = f"{EXCEPTION[name]} {130 if name == 'SIGINT' else 143}\n"
    assert ended(program) == (0, 2 * line, "")


WAITS = {
    "sleep": "stopping.sleep(1000)",
    "event": "stopping.wait(threading.Event(), 1000)",
    "future": "stopping.result(Future())",
    "queue": "stopping.get(queue.Queue())",
    "program": "stopping.run([sys.executable, '-c', 'import time; time.sleep(1000)'], 1000)",
    "threads": """
with stopping.threads(1) as pool:
    for answer in stopping.mapped(pool, threading.Event().wait, [1000, 1000]):
        pass""",
}


def test_a_signal_ends_every_wait() -> None:
    """Side by side, as each starts Python."""
    running = {}
    for name, wait in WAITS.items():
        program = f"""{START}
stopping.obey()
send_later("SIGTERM")
try:
    exec({wait!r})
except stopping.Terminated:
    print("stopped", flush=True)
    os._exit(0)
"""
        running[name] = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert {name: process.communicate()[0] for name, process in running.items()} == dict.fromkeys(WAITS, "stopped\n")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_the_watchdog_ends_what_does_not_look(name: str, code: int) -> None:
    """Its child is ended, too."""
    program = f"""{NATIVE}
import multiprocessing
stopping.obey(limit_seconds=0.5)
stopping.say_after_stop("Nothing was changed.")
child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,), daemon=True)
child.start()
print(child.pid, flush=True)
native({name!r})
"""
    ended_with, stdout, stderr = ended(program)
    assert ended_with == code
    assert stderr == f"\nended: 0.5 s after {name} it had not stopped by itself.\nNothing was changed.\n"
    while runs(int(stdout)):
        time.sleep(0.01)


def test_the_watchdog_lets_who_ends_in_time_end() -> None:
    program = """
stopping.obey(limit_seconds=1000)
send("SIGTERM")
try:
    stopping.check()
except stopping.Terminated:
    time.sleep(0.5)  # as for what is being sealed
    sys.exit(7)
"""
    assert ended(program) == (7, "", "")


def test_a_second_signal_ends_the_process_at_once() -> None:
    assert ended('stopping.obey(); send("SIGTERM"); send("SIGINT"); send("SIGTERM"); time.sleep(1000)')[0] == -15
    ignoring = """
stopping.obey([signal.SIGTERM], second_ends=False)
send("SIGTERM"); send("SIGTERM")
print(stopping.asked().__name__)
"""
    assert ended(ignoring) == (0, "Terminated\n", "")


def test_a_second_signal_that_finds_the_main_thread_in_native_code() -> None:
    program = f"""{NATIVE}
stopping.obey(limit_seconds=1000)
threading.Timer(0.9, send, ["SIGTERM"]).start()
native("SIGTERM")
"""
    assert ended(program) == (143, "", "\nended: a second SIGTERM came.\n")


def test_without_handlers_nothing_is_noted_and_waits_give_what_they_wait_for() -> None:
    stopping.check()
    assert stopping.asked() is None
    done = Future[int]()
    threading.Timer(0.2, done.set_result, [3]).start()
    assert stopping.result(done) == 3
    failed = Future[int]()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        stopping.result(failed)
    items = queue.Queue[int]()
    threading.Timer(0.2, items.put, [4]).start()
    assert stopping.get(items) == 4
    with pytest.raises(queue.Empty):
        stopping.get(items, 0.01)
    said = stopping.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 100)
    assert (said.returncode, said.stdout, said.stderr) == (3, "out\n", "err\n")
    with pytest.raises(subprocess.TimeoutExpired):
        stopping.run([sys.executable, "-c", "import time; time.sleep(1000)"], 0.01)
    with stopping.threads(2) as pool:
        assert [*stopping.mapped(pool, abs, [-1, 2, -3])] == [1, 2, 3]
    stopping.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_script_of_a_user_is_as_python_has_it() -> None:
    program = """
send_later("SIGINT")
try:
    stopping.result(Future())
except KeyboardInterrupt:
    print("interrupted", stopping.asked())
"""
    assert ended(program) == (0, "interrupted None\n", "")
