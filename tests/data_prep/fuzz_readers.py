"""Damaged files for every reader, for minutes: `make fuzz`. For any bytes, a reader must give a terminology or a DataError of one line,
within seconds and within limited memory.

Each round takes a small valid input, damages it (bytes changed, removed, repeated or moved; delimiters of the format inserted; encodings
broken; truncated), and has it read in a forked process with limits on memory and time. An input that breaks a rule is saved and printed with
the seed of the round, which repeats it: `PYTHONPATH=. python tests/data_prep/fuzz_readers.py --reader obo --seed 123 --rounds 1`.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb  # noqa: F401
import pyarrow
import pyarrow.parquet
import tqdm  # noqa: F401
from pyarrow import csv  # noqa: F401

from data_prep.assemble import Assembly
from tests.fixtures import fuzz_inputs
from xsap.errors import DataError

SECONDS, MEMORY = 20, 1 << 30  # of a round, and bytes resident
OK, REFUSED, BROKEN = 0, 3, 4
SIGNS = [
    b"|",
    b"||",
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b'"',
    b"'",
    b"\\",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"[Term]\n",
    b"id: ",
]
SIGNS += [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"1e999",
    b"-1",
    b"9" * 40,
    b"<",
    b">",
    b"&",
    b"&amp;",
    b"]]>",
    b"<!--",
    b"NA",
    b"en",
    b"@",
    b" " * 50,
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The input with one to six things done to it; now and then empty, in another encoding, or large."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = _once(data, rng)
    return data if rng.random() > 0.005 else rng.choice((b"", data.decode("latin-1").encode("utf-16"), data * 200))


def _once(data: bytes, rng: random.Random) -> bytes:
    at, to, length = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 5, 20, 200))
    before, piece, after = data[:at], data[at : at + length], data[at + length :]
    choices: list[Callable[[], bytes]] = [
        lambda: before + rng.choice(SIGNS) + piece + after,
        lambda: before + after,
        lambda: before + piece * rng.choice((2, 3, 50)) + after,
        lambda: before + bytes(rng.randrange(256) for _ in piece) + after,
        lambda: before,
        lambda: data[:to] + piece + data[to:],
        lambda: data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"")), rng.choice((1, -1))),
        lambda: data.replace(*rng.sample(SIGNS, 2)),
    ]
    return rng.choice(choices)()


def round_of(reader: str, seed: int, folder: Path) -> tuple[int, str]:
    """One round in a process of its own → how it ended, and its message."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(f"{reader} {seed}")
    files = fuzz_inputs.INPUTS[reader]()
    victims = rng.sample(sorted(files), k=min(len(files), rng.choice((1, 1, 1, 2))))
    for name, data in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(data, rng) if name in victims else data)
    outcome = folder / "outcome"
    child = os.fork()
    if not child:
        _read_in_child(reader, folder, outcome)
    deadline = time.monotonic() + SECONDS
    while (done := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return BROKEN, f"did not end after {SECONDS} s"
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(done[1])
    if done[2].ru_maxrss > MEMORY >> 10:
        return BROKEN, f"took {done[2].ru_maxrss / 1e6:.1f} GB"
    text = outcome.read_text() if outcome.exists() else ""
    if code == REFUSED and ("\n" in text.strip() or not text.strip()):
        return BROKEN, f"not one line: {text!r}"
    return (code, text) if code in (OK, REFUSED) else (BROKEN, text or f"exit code {code}")


def _read_in_child(reader: str, folder: Path, outcome: Path) -> None:
    """Read in this process, a child; never returns."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * MEMORY, 8 * MEMORY))
    code = BROKEN
    try:
        tempfile.tempdir = str(folder)
        with Assembly(200_000_000) as assembly:
            fuzz_inputs.READERS[reader](folder / "in", assembly, folder / "out")
        code = OK
    except DataError as error:
        outcome.write_text(str(error))
        code = REFUSED if not (folder / "out").exists() else BROKEN
    except BaseException:
        outcome.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def main() -> None:
    """Rounds until the time is up; exit code 1 if any broke a rule."""
    parser = argparse.ArgumentParser(description="Damaged files for every reader.")
    parser.add_argument("--minutes", type=float, default=20, help="in all, shared by the readers")
    parser.add_argument(
        "--reader", choices=sorted(fuzz_inputs.READERS), action="append", help="only this one (more than once: these)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--rounds", type=int, help="so many of each reader, however long they take")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where what breaks a rule is saved")
    given = parser.parse_args()
    pyarrow.array([""])  # loads pandas where there is one, which would else take each round a second
    counts: dict[str, Counter[int]] = {reader: Counter() for reader in given.reader or fuzz_inputs.READERS}
    end, seed = time.monotonic() + given.minutes * 60, given.seed
    memory = Path(
        "/dev/shm"
    )  # rounds write files and wait for the disk to have them; a disk in memory has them at once
    with tempfile.TemporaryDirectory(prefix="xsap-fuzz-", dir=memory if memory.is_dir() else None) as place:
        while (seed - given.seed < given.rounds) if given.rounds else time.monotonic() < end:
            for reader, ended in counts.items():
                code, text = round_of(reader, seed, Path(place) / "round")
                ended[code] += 1
                if code == BROKEN:
                    shutil.copytree(Path(place) / "round" / "in", given.keep / f"{reader}-{seed}", dirs_exist_ok=True)
                    print(f"{reader}, seed {seed}: {text.strip()}", flush=True)
            seed += 1
    for reader, ended in counts.items():
        print(
            f"{reader:15}{sum(ended.values()):8,} files: {ended[OK]:,} read, {ended[REFUSED]:,} refused in one line, {ended[BROKEN]:,} broke a rule"
        )
    sys.exit(any(ended[BROKEN] for ended in counts.values()))


if __name__ == "__main__":
    main()
