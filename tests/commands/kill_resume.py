# SPDX-License-Identifier: Apache-2.0
# ctest: torch slow timeout=600
# Kills `hydralm train` (kill -9) at random moments, runs it again, and demands that the finished run equals, bit for
# bit, one that nobody disturbed: weights, optimiser, state, logs. The same for SIGINT and SIGTERM, which must exit with
# 130 and 143 and say how to go on. HYDRALM_KILLS=1000 for more kills, HYDRALM_SEED for other moments.
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from train_common import differences, environment, make_data, must, train_command  # noqa: E402

SETTINGS = {"optim.steps": 40, "optim.batch_rows": 2, "optim.seq_len": 32, "optim.lr": 0.01, "optim.warmup_steps": 5,
            "log.every": 3, "checkpoint.every": 4, "checkpoint.keep": 2, "eval.every": 10, "eval.tokens": 256}


def kill_until_done(command, rng, startup, total):
    """Kills the run at random moments, early and late alike, until one attempt ends by itself. Returns the kills."""
    kills = 0
    while True:
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Mostly while it trains; each second attempt early enough to leave work for the next. Later ones get more time:
        # on a machine that has become slower since it was measured, no run would ever end.
        limit = total if kills % 2 else startup + 0.3 * (total - startup)
        try:
            _, err = process.communicate(timeout=rng.uniform(0.5 * startup, limit) * (1 + kills / 20))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        if process.returncode != 0:
            sys.exit(f"after {kills} kills: status {process.returncode}\n{err.decode()}")
        return kills


def interrupt(command, folder, name, number):
    """One signal in the middle: exit status, the advice, and that following it works."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = os.path.join(folder, "train.jsonl")
    for _ in range(6000):
        if os.path.exists(log) and os.path.getsize(log) > 0:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, f"{name}: status {process.returncode}\n{err}"
    line = [line for line in err.splitlines() if "to go on: " in line]
    assert len(line) == 1 and "ckpt/step-" in line[0], f"{name}: {err}"
    words = shlex.split(line[0].split("to go on: ")[1])
    assert words[0] == "hydralm" and words[1:] == command[1:], f"{name}: {words}"
    must(command)


def main():
    hydralm, hydralm_train = sys.argv[1], sys.argv[2]
    kills_wanted = int(os.environ.get("HYDRALM_KILLS", "20"))
    seed = int(os.environ.get("HYDRALM_SEED", "1"))
    print(f"seed {seed}, at least {kills_wanted} kills")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(hydralm, folder, seed)
        command = lambda name: train_command(hydralm_train, data, f"{folder}/{name}", SETTINGS)
        begin = time.time()
        must(command("startup") + ["--dry-run"])
        startup = time.time() - begin
        begin = time.time()
        must(command("whole"))
        total = time.time() - begin
        print(f"start-up {startup:.2f} s, whole run {total:.2f} s")
        kills = runs = 0
        while kills < kills_wanted:
            name = f"killed{runs}"
            kills += kill_until_done(command(name), rng, startup, total)
            wrong = differences(f"{folder}/whole", f"{folder}/{name}")
            assert not wrong, f"run {runs}, {kills} kills so far: {wrong}"
            runs += 1
        print(f"{kills} kills in {runs} runs: all bits equal")
        for name, number in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM)):
            interrupt(command(name), f"{folder}/{name}", name, number)
            wrong = differences(f"{folder}/whole", f"{folder}/{name}")
            assert not wrong, f"{name}: {wrong}"
        print("SIGINT, SIGTERM: checkpoint, status, advice, all bits equal")


main()
