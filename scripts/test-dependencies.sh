#!/bin/sh
# Installs what the tests need when it is missing: PostgreSQL, Redis and Prometheus, which they start as
# private servers, and Chromium with its driver, from Debian's packages; Schemathesis,
# grafana-foundation-sdk and Rotel, a collector of traces, from PyPI, into target/. No server of the
# system is started or touched. Says nothing when all is there.
set -eu
cd "$(dirname "$0")/.."

schemathesis=target/schemathesis
schemathesis_version=4.32.5
grafana_sdk=target/grafana-foundation-sdk
# It writes the dashboards of Grafana 11.6; the part before ! is when it was made.
grafana_sdk_version='1769699379!11.6.0'
rotel=target/rotel
rotel_version=0.0.1a15

has_postgres() {
    for folder in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && [ -x "$folder/psql" ] && return 0
    done
    command -v initdb >/dev/null && command -v postgres >/dev/null && command -v psql >/dev/null
}

has_redis() {
    command -v redis-server >/dev/null
}

has_prometheus() {
    command -v prometheus >/dev/null && command -v promtool >/dev/null
}

has_browser() {
    command -v chromium >/dev/null && command -v chromedriver >/dev/null
}

has_grafana_sdk() {
    grep -qxF "$grafana_sdk_version" "$grafana_sdk/version" 2>/dev/null
}

has_schemathesis() {
    "$schemathesis/bin/schemathesis" --version 2>/dev/null | grep -qF "$schemathesis_version"
}

has_rotel() {
    [ -x "$rotel/bin/rotel-agent" ] &&
        ls -d "$rotel"/lib/python3*/site-packages/"rotel-$rotel_version.dist-info" >/dev/null 2>&1
}

# Debian's python3 has no pip of its own for a venv without this package.
has_venv() {
    python3 -c "import ensurepip, venv" 2>/dev/null
}

fail() {
    echo "test-dependencies: $*" >&2
    exit 1
}

install_schemathesis() {
    has_schemathesis && return
    echo "test-dependencies: installing Schemathesis $schemathesis_version" >&2
    rm -rf "$schemathesis"
    mkdir -p target
    python3 -m venv "$schemathesis" &&
        "$schemathesis/bin/pip" install --quiet --disable-pip-version-check \
            "schemathesis==$schemathesis_version" &&
        has_schemathesis ||
        fail "cannot install Schemathesis: it needs Python 3.10 or newer, and PyPI"
}

install_grafana_sdk() {
    has_grafana_sdk && return
    echo "test-dependencies: installing grafana-foundation-sdk $grafana_sdk_version" >&2
    rm -rf "$grafana_sdk"
    mkdir -p target
    python3 -m venv "$grafana_sdk" &&
        "$grafana_sdk/bin/pip" install --quiet --disable-pip-version-check \
            "grafana-foundation-sdk==$grafana_sdk_version" ||
        fail "cannot install grafana-foundation-sdk: it needs Python 3.11 or newer, and PyPI"
    echo "$grafana_sdk_version" >"$grafana_sdk/version"
}

# Its wheel brings a program beside the Python that nobody here needs.
install_rotel() {
    has_rotel && return
    echo "test-dependencies: installing Rotel $rotel_version" >&2
    rm -rf "$rotel"
    mkdir -p target
    python3 -m venv "$rotel" &&
        "$rotel/bin/pip" install --quiet --disable-pip-version-check "rotel==$rotel_version" &&
        (cd "$rotel/bin" && ln -s ../lib/python3*/site-packages/rotel/rotel-agent rotel-agent) &&
        has_rotel ||
        fail "cannot install Rotel: it needs a Python that it has a wheel for, and PyPI"
}

packages=
has_postgres || packages="postgresql"
has_redis || packages="$packages redis-server"
has_schemathesis || has_venv || packages="$packages python3-venv"
{ has_grafana_sdk && has_rotel; } || has_venv || packages="$packages python3-venv"
has_prometheus || packages="$packages prometheus"
has_browser || packages="$packages chromium chromium-driver fonts-dejavu-core"
if [ -z "$packages" ]; then
    install_schemathesis
    install_grafana_sdk
    install_rotel
    exit 0
fi

needed="PostgreSQL's initdb, postgres and psql; redis-server, prometheus, promtool, chromium and chromedriver on the PATH"
command -v apt-get >/dev/null || fail "this system has no apt-get. Install: $needed"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
    fail "run as root, or install the packages yourself:" $packages

# Without these two, the packages would set up a database cluster and start all servers.
cluster_settings=/etc/postgresql-common/createcluster.conf
policy=/usr/sbin/policy-rc.d
own_policy=

clean_up() {
    if [ -n "$own_policy" ]; then as_root rm -f "$policy"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -e "$cluster_settings" ]; then
    as_root mkdir -p "${cluster_settings%/*}"
    echo "create_main_cluster = false" | as_root tee "$cluster_settings" >/dev/null
fi
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
fi

echo "test-dependencies: installing" $packages >&2
# Another may be installing, as on a machine that was just started.
patience="-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300"
# shellcheck disable=SC2086
as_root apt-get $patience update -qq
# shellcheck disable=SC2086
as_root env DEBIAN_FRONTEND=noninteractive apt-get $patience install -y -qq --no-install-recommends $packages

has_postgres || fail "the package postgresql did not bring initdb, postgres and psql"
has_redis || fail "the package redis-server did not bring redis-server"
has_prometheus || fail "the package prometheus did not bring prometheus and promtool"
has_browser || fail "the packages chromium and chromium-driver did not bring chromium and chromedriver"
install_schemathesis
install_grafana_sdk
install_rotel
