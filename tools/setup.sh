#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Set-up of a machine, from nothing: Debian packages (packages.txt), .venv with the Python tools (requirements.txt)
# and LibTorch. What is there is left alone: a second run looks and changes nothing. Not here: building (Makefile).
#
#   tools/setup.sh          packages and .venv; goes on without LibTorch when it cannot be had
#   tools/setup.sh torch    the same, but LibTorch is a must
#   tools/setup.sh dev      the packages of `make tidy` and `make fuzz` only
#   tools/setup.sh arm      those of `make arm` only; dpkg then knows 64-bit Arm as a foreign architecture
#
# TORCH=off leaves LibTorch out.
set -eu
cd "$(dirname "$0")/.."
mode=${1:-base}
venv=.venv
no_torch=$venv/no-torch  # exists when LibTorch could not be had: only `make setup-torch` tries again

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Runs a command with its words in a log: only its failure is worth reading.
logged() { "$@" >> build/setup.log 2>&1; }
last_error() { grep -i -e '^E: ' -e '^ERROR' build/setup.log | tail -n 1; }

# What the build must notice: the newest change of set-up.
changed() { mkdir -p build && date > build/setup.stamp; }

# The packages of a group that are not installed. Those of another architecture are named package:architecture.
missing_packages() {
  names=$(sed -n "s/^$1  *\([^ #]*\).*/\1/p" packages.txt)
  format='${db:Status-Status} ${Package}\n${db:Status-Status} ${Package}:${Architecture}\n'
  installed=$(dpkg-query -W -f="$format" $names 2>/dev/null | sed -n 's/^installed //p')
  for name in $names; do
    printf '%s\n' "$installed" | grep -qx -- "$name" || printf '%s ' "$name"
  done
}

install_packages() {
  command -v dpkg-query >/dev/null ||
    die "no dpkg: install what packages.txt lists by hand, then build with cmake --preset release"
  missing=$(missing_packages "$1" | sed "s, *$,,")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then
    as_root=env
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root="sudo env"
  else
    die "not root and no sudo; missing packages: $missing"
  fi
  say "installing packages: $missing"
  case $missing in
    *:arm64*)
      logged $as_root dpkg --add-architecture arm64 || die "dpkg refuses arm64: $(tail -n 1 build/setup.log)"
      ;;
  esac
  logged $as_root DEBIAN_FRONTEND=noninteractive apt-get -q update ||
    say "apt-get update failed (build/setup.log); trying with the lists that are there"
  logged $as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing ||
    die "apt-get could not install: $missing: $(last_error)"
  missing=$(missing_packages "$1" | sed "s, *$,,")
  [ -z "$missing" ] || die "still missing after apt-get: $missing"
  changed
}

# True when $1 (a python) has a torch that is new enough; asks the metadata only, so it takes no time.
has_torch() {
  "$1" - <<'PY' 2>/dev/null
import sys, importlib.metadata
version = importlib.metadata.version("torch").split("+")[0].split(".")
sys.exit(not ((int(version[0]), int(version[1])) >= (2, 7)))
PY
}

# True when .venv has everything that a list pins.
has_pinned() {
  [ -x $venv/bin/python ] && $venv/bin/python - "$1" <<'PY' 2>/dev/null
import sys, importlib.metadata
for line in open(sys.argv[1]):
    name, _, version = line.split("#")[0].strip().partition("==")
    if name and importlib.metadata.version(name).split("+")[0] != version:
        sys.exit(1)
PY
}

make_venv() {
  if [ -x $venv/bin/python ] && $venv/bin/python -c "import pip" 2>/dev/null; then return 0; fi
  command -v python3 >/dev/null || die "no python3"
  options=
  if has_torch python3; then options=--system-site-packages; fi
  say "making $venv $options"
  rm -rf $venv
  python3 -m venv $options $venv || die "python3 -m venv failed: is python3-venv of this python3 installed?"
  changed
}

pip_install() {
  $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@" >> build/setup.log 2>&1
}

install_python() {
  make_venv
  if ! has_pinned requirements.txt; then
    say "installing Python packages: $(grep -v '^#' requirements.txt | tr '\n' ' ')"
    pip_install -r requirements.txt || die "pip could not install requirements.txt into $venv: $(last_error)"
    changed
  fi
}

install_torch() {
  if [ "${TORCH:-auto}" = off ] || has_torch $venv/bin/python; then return 0; fi
  if [ "$mode" != torch ] && [ -e $no_torch ]; then return 0; fi
  say "installing LibTorch: $(grep -v '^#' requirements-torch.txt) (large; TORCH=off leaves it out)"
  if pip_install -r requirements-torch.txt && has_torch $venv/bin/python; then
    rm -f $no_torch
    changed
    return 0
  fi
  [ "$mode" != torch ] || die "pip could not install LibTorch: $(last_error)"
  : > $no_torch
  say "LibTorch could not be had ($(last_error)): going on without hydralm-train;" \
    "\`make setup-torch && make\` tries again"
}

mkdir -p build
exec 9> build/setup.lock
if command -v flock >/dev/null; then flock 9; fi  # two makes at once: one installs
case $mode in
  base | torch)
    install_packages base
    install_python
    install_torch
    ;;
  dev | arm) install_packages "$mode" ;;
  *) die "$mode: must be base, torch, dev or arm" ;;
esac
[ -e build/setup.stamp ] || changed
