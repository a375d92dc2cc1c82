"""Stands for Slurm's clients where a benchmark needs no Slurm: answers plausibly, in about 10 ms, and counts its calls.

bench/submit.py copies this file under the names sbatch, squeue, sacct, scontrol, sinfo, scancel and srun, each with a
first line that starts a bare Python. It imports nothing but what costs nothing. The folder it lies in holds its state:

    calls     a line for every call: command, start, end (seconds since the epoch), CPU seconds of the call itself
    jobs      a line for every sbatch: id|name|first index|last index|throttle (indices are empty for a plain job)
    phase     what became of each array, in the order of its indices: "COMPLETED 400 RUNNING 256"; the rest waits
    foreign   "others own": how many jobs of other users, and of this user, are in the queue beside ours
"""

# pathlib would cost as long as everything else here
# ruff: noqa: PTH100, PTH110, PTH119, PTH120, PTH123
import os
import sys
import time

BEGAN = time.time()
HERE = os.path.dirname(os.path.abspath(sys.argv[0]))
NAME = os.path.basename(sys.argv[0])
SHORT = {"PENDING": "PD", "RUNNING": "R"}
STAMP = "2026-01-05T08:00:00"
Job = tuple[str, str, str, str, str]
"""(id, array id, index, state, name)."""


def main() -> None:
    """Answer as the command that this file is called."""
    answer = {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scontrol": scontrol, "sinfo": sinfo}.get(NAME, quiet)
    sys.stdout.write(answer(sys.argv[1:]))
    sys.stdout.flush()
    spent = time.process_time()
    append("calls", f"{NAME} {BEGAN:.6f} {time.time():.6f} {spent:.6f}")


def sbatch(arguments: list[str]) -> str:
    """Note the job that the script and the options describe; its id is the next number."""
    options = list(arguments)
    with open(arguments[-1], encoding="utf-8") as script:
        options += [line[8:].strip() for line in script if line.startswith("#SBATCH ")]
    number = 1000 + len(lines("jobs"))
    array, _, throttle = value(options, "--array", "-a").partition("%")
    first, _, last = array.partition("-")
    append("jobs", "|".join([str(number), value(options, "--job-name", "-J"), first, last or first, throttle]))
    return f"{number}\n" if "--parsable" in options else f"Submitted batch job {number}\n"


def squeue(arguments: list[str]) -> str:
    """What waits or runs: ours and, where they are asked for too, the foreign jobs."""
    ids, names = chosen(arguments, "-j", "--jobs"), chosen(arguments, "-n", "--name")
    rows = [j for j in ours(ids, names) if j[3] in SHORT]
    others, own = (int(n) for n in (lines("foreign") or ["0 0"])[0].split())
    if not ids and not names:
        count = own + (0 if {"--me", "-u", "--user"} & set(arguments) else others)
        rows += [(str(n), str(n), "N/A", "PENDING", f"foreign-{n}") for n in range(500000, 500000 + count)]
    template = format_of(value(arguments, "-o", "--format") or "%i %P %j %u %t %M %D %R")
    head = [] if {"-h", "--noheader"} & set(arguments) else ["HEADER"]
    return "".join(f"{row}\n" for row in head + [template.format((*j, SHORT[j[3]])) for j in rows])


def format_of(text: str) -> str:
    """squeue's format as one of Python's: its letters stand for fields of a Job, or for constants."""
    fields = {"i": "{0[0]}", "A": "{0[0]}", "F": "{0[1]}", "K": "{0[2]}", "T": "{0[3]}", "t": "{0[5]}", "j": "{0[4]}"}
    rest = {"r": "Priority", "R": "(Priority)", "V": STAMP, "u": "user", "P": "batch", "D": "1", "M": "0:00"}
    parts = text.split("%")
    for number, part in enumerate(parts[1:], 1):
        bare = part.lstrip(".0123456789")
        parts[number] = fields.get(bare[:1], rest.get(bare[:1], "N/A")) + bare[1:]
    return "".join(parts)


def sacct(arguments: list[str]) -> str:
    """Accounting as it is: a line for every element that has started, one for those of an array that wait."""
    columns = value(arguments, "-o", "--format").split(",")
    names = chosen(arguments, "--name", "--name")
    table = [] if {"-n", "--noheader"} & set(arguments) else ["|".join(columns)]
    for job in lines("jobs"):
        number, name, first, last, throttle = job.split("|")
        mine = ours({number}, names)
        started = [j for j in mine if j[3] != "PENDING"]
        begins = int(first or 0) + len(started)
        if first and len(started) < len(mine):
            started.append((f"{number}_[{begins}-{last}%{throttle}]", number, "", "PENDING", name))
        if chosen(arguments, "-j", "--jobs") and number not in chosen(arguments, "-j", "--jobs"):
            continue
        table += ["|".join(account(j, c) for c in columns) for j in started or mine]
    return "".join(f"{row}\n" for row in table)


def account(job: Job, column: str) -> str:
    """One field of accounting."""
    given = {
        "jobid": job[0],
        "state": job[3],
        "jobname": job[4],
        "exitcode": f"{int(job[3] == 'FAILED')}:0",
        "submit": STAMP,
    }
    return given.get(column.lower().partition("%")[0], "")


def scontrol(arguments: list[str]) -> str:
    """The settings that tools ask for."""
    if arguments[:2] == ["show", "config"]:
        return "MaxArraySize            = 1001\nMaxJobCount             = 100000\nSLURM_VERSION           = 22.05.8\n"
    return "Slurmctld(primary) at host is UP\n" if arguments[:1] == ["ping"] else ""


def sinfo(arguments: list[str]) -> str:
    """One partition with one kind of node."""
    rest = {
        "P": "batch",
        "a": "up",
        "l": "7-00:00:00",
        "D": "64",
        "c": "128",
        "m": "500000",
        "G": "(null)",
        "T": "idle",
    }
    parts = (value(arguments, "-o", "--format") or "%P").split("%")
    return "".join(rest.get(p.lstrip(".0123456789")[:1], "N/A") + p.lstrip(".0123456789")[1:] for p in parts[1:]) + "\n"


def quiet(arguments: list[str]) -> str:
    """scancel and srun say nothing."""
    return ""


def ours(ids: set[str], names: set[str]) -> list[Job]:
    """The elements of everything that was submitted, of some ids or names alone where any are given."""
    words = (lines("phase") or [""])[0].split()
    past = [word for word, count in zip(words[::2], words[1::2], strict=True) for _ in range(int(count))]
    found: list[Job] = []
    for job in lines("jobs"):
        number, name, first, last, _ = job.split("|")
        if (ids and number not in ids) or (names and name not in names):
            continue
        if not first:
            found.append((number, number, "N/A", "PENDING", name))
            continue
        for place, index in enumerate(range(int(first), int(last) + 1)):
            word = past[place] if place < len(past) else "PENDING"
            found.append((f"{number}_{index}", number, str(index), word, name))
    return found


def value(options: list[str], *names: str) -> str:
    """The value of an option, written `--name=value`, `--name value` or `-n value`; empty where it is not given."""
    for number, option in enumerate(options):
        head, equals, tail = option.partition("=")
        if head in names:
            return tail if equals else options[number + 1]
    return ""


def chosen(options: list[str], *names: str) -> set[str]:
    """The values of an option that takes a list and may be given several times."""
    text = [value(options[n:], *names) for n, option in enumerate(options) if option.partition("=")[0] in names]
    return {part for line in text for part in line.split(",") if part}


def lines(name: str) -> list[str]:
    """The lines of a file of the state; none where it is not there."""
    path = os.path.join(HERE, name)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def append(name: str, line: str) -> None:
    """One line at the end of a file of the state, in one write."""
    handle = os.open(os.path.join(HERE, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


if __name__ == "__main__":
    main()
