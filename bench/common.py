# SPDX-License-Identifier: Apache-2.0
# What the benchmark scripts share: running commands, their peak memory, the machine in words, medians, cells,
# paragraphs. Not here: timing.
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time

median = statistics.median


def prose(text):
    """A paragraph of a results page, in lines of at most 120 columns."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def run(*args, **options):
    """The output of a command; a failed one ends the script with its words."""
    made = subprocess.run([str(a) for a in args], capture_output=True, text=True, **options)
    if made.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))[:300]}: {made.stderr.strip()}")
    return made.stdout


def peak(*args, pause=0.002):
    """Bytes that a command had resident at most, looked at every `pause` seconds. wait4's maximum would begin at the
    size of this interpreter."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=errors)
        most, looks = 0, 0
        while process.poll() is None:
            with open(f"/proc/{process.pid}/status") as status:
                most = max([most, *(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
            looks += 1
            time.sleep(0 if looks < 1000 and pause < 0.01 else pause)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(map(str, args))}: {errors.read().decode().strip()}")
    return most


def machine():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
    levels = (("avx512_vnni", "AVX-512 with VNNI"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
    simd = next((name for flag, name in levels if flag in flags), "no AVX2")
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs, {simd}"


def commit():
    """The short hash; + where sources differ from it. Results of another benchmark are no sources."""
    changed = run("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results").strip()
    return run("git", "rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")


def spread(values, digits=1):
    """median (min .. max)"""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})" if values else ""
