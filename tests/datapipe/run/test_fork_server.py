"""What tasks find in their memory, and when the process that they are forked from may be forked itself."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, os, signal, sys, threading
from epochal.datapipe.run import fork_server

class Large:
    made = 0
    def __reduce__(self):
        assert not fork_server.is_forked(), "it is sent"
        return Large, ()

def prepare():
    Large.made += 1
    open(sys.argv[1], "a").write(f"{os.getpid()} prepares\\n")

def task(large):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    modules = "epochal.datapipe.stages.ingest" in sys.modules
    said = f"{os.getppid()} has {Large.made} {large is fork_server._shared} {blocked} {modules}\\n"
    open(sys.argv[1], "a").write(said)

def run(large):
    print("waits in the buffer")
    fork_server.start_task_server(large, prepare)
    fork_server.start_task_server()
    print(fork_server.is_forked())
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=task, args=(large,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
"""


def run(tmp_path: Path, *lines: str) -> tuple[str, list[str]]:
    """Run a program that starts the server and two tasks; return what it prints, and what the processes said."""
    said = tmp_path / "said"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "\nif __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in lines))
    done = subprocess.run([sys.executable, str(program), str(said)], capture_output=True, text=True, check=True)
    return done.stdout, said.read_text().splitlines()


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not say how many threads there are")
def test_tasks_find_what_the_server_prepared_once_and_what_it_shares(tmp_path: Path) -> None:
    printed, (prepared, *tasks) = run(tmp_path, "fork_server.set_environment()", "run(Large())")
    assert printed == "waits in the buffer\nTrue\n", "forked, and nothing is printed twice"
    server = prepared.split()[0]
    assert tasks == [f"{server} has 1 True True False"] * 2


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not say how many threads there are")
def test_each_build_forks_a_server_of_its_own_which_ends_with_it(tmp_path: Path) -> None:
    lines = ["with fork_server.task_server():", "    run(Large())", "    server = fork_server._forked"]
    ended = ["assert not fork_server.is_forked()", "try: os.waitpid(server, 0)", "except ChildProcessError: pass"]
    printed, said = run(tmp_path, "fork_server.set_environment()", *[*lines, *ended] * 2)
    assert printed.splitlines().count("True") == 2
    assert len({line.split()[0] for line in said if "prepares" in line}) == 2


@pytest.mark.slow
@pytest.mark.processes
def test_a_process_with_threads_is_not_forked_and_tasks_run_all_the_same(tmp_path: Path) -> None:
    start = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    printed, said = run(tmp_path, "fork_server.set_environment()", start, "run(Large())")
    assert printed == "waits in the buffer\nFalse\n"
    assert [line.split()[1:] for line in said] == [["has", "0", "False", "True", "True"]] * 2, "a new process imports"
