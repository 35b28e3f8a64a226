# Sourced from the project's root with the requirements to satisfy: afterwards `python` has them.
# An active environment that satisfies them is used as it is; otherwise .venv is made.
requirements=$1

satisfied() { command -v "$1" >/dev/null && "$1" scripts/satisfied.py "$requirements"; }

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python >= 3.11 found; install one, or activate an environment with it" >&2
  return 1
}

if ! satisfied python; then
  if ! satisfied .venv/bin/python; then
    base=$(find_python)
    echo "installing $requirements into .venv (once)" >&2
    [ -x .venv/bin/python ] || "$base" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
  fi
  source .venv/bin/activate
fi

# A waiting thread of torch spins for a moment only. By default it spins so long that a second busy
# process on the machine makes training ten times slower; alone, this costs a tenth at most.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}
