# A virtual environment knows its own path, so it is made where it is to be.
python3 -m venv /opt/mini
# shellcheck disable=SC2086
/opt/mini/bin/python -m pip install $ENGINE_REQUIREMENTS
/opt/mini/bin/python -m pip uninstall --yes pip setuptools
mkdir -p /engine/opt
mv /opt/mini /engine/opt/mini
ln -s /opt/mini/bin/mini /engine/usr/local/bin/mini
