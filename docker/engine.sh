#!/usr/bin/env bash
# Finds or makes a Docker engine with the base images.
#
#   docker/engine.sh COMMAND...     runs it with that engine; one that had to be started ends with it
#   eval "$(docker/engine.sh)"      for this shell; one that had to be started stays, until  docker/engine.sh stop
#
# An engine that answers is used as it is. Else, for root on Debian or Ubuntu, one is installed from the distribution's
# packages and started beside everything else: own socket, own data. Base images come from a registry, or where none can
# be reached are made from Debian's packages under the same names.
set -euo pipefail
here=$(dirname "$0")

STATE=/var/lib/p2ptrain-docker
RUN=/run/p2ptrain-docker
PYTHON_IMAGE=$(awk '/^FROM/ {print $2; exit}' "$here/Dockerfile")
BROKER_IMAGE=$(awk '$1 == "image:" && /mosquitto/ {print $2}' "$here/../compose.yaml")
DEBIAN=${PYTHON_IMAGE##*-}
START_S=60
STOP_S=60
export DEBIAN_FRONTEND=noninteractive

say() { echo "engine: $*" >&2; }
fail() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || fail "$1, and only root can change that: $2"; }

answers() { timeout 20 docker version >/dev/null 2>&1; }

install_packages() {  # PROGRAM PACKAGE...
    command -v "$1" >/dev/null && return
    need_root "there is no $1" "install Docker, or run this as root"
    command -v apt-get >/dev/null || fail "there is no $1, and no apt-get to install it with: install Docker"
    say "installing ${*:2}"
    mkdir -p "$RUN"
    # Some source may be out of reach; whether one has the packages shows when they are installed.
    { apt-get update || true; apt-get install --yes --no-install-recommends "${@:2}"; } >"$RUN/apt.log" 2>&1 ||
        fail "apt-get cannot install ${*:2}: $(tail -n 1 "$RUN/apt.log"); all of it is in $RUN/apt.log"
}

pid() {  # of the engine that we have started
    local number
    number=$(cat "$RUN/dockerd.pid" 2>/dev/null) && [ "$(cat "/proc/$number/comm" 2>/dev/null)" = dockerd ] && echo "$number"
}

start_engine() {
    mkdir -p "$RUN" "$STATE"
    say "starting dockerd, log in $RUN/dockerd.log"
    started=yes
    setsid nohup dockerd --host "$DOCKER_HOST" --data-root "$STATE/data" --exec-root "$RUN/exec" --pidfile "$RUN/dockerd.pid" \
        >"$RUN/dockerd.log" 2>&1 </dev/null &
    local child=$!
    for _ in $(seq $((START_S * 5))); do
        answers && return
        kill -0 "$child" 2>/dev/null ||
            fail "no Docker engine can run here, dockerd says: $(grep -v level=info "$RUN/dockerd.log" | tail -n 1)"
        sleep 0.2
    done
    fail "dockerd does not answer within $START_S s, see $RUN/dockerd.log"
}

stop_engine() {
    local number
    number=$(pid) || return 0
    say "stopping dockerd"
    kill "$number"
    timeout "$STOP_S" tail --pid="$number" -f /dev/null || { say "it did not stop within $STOP_S s, killed"; kill -9 "$number"; }
}

find_engine() {
    answers && return
    [ -z "${DOCKER_HOST:-}" ] || fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST"
    need_root "no Docker engine answers" "start one, or run this as root"
    install_packages dockerd docker.io iptables
    answers && return  # the package has started it
    export DOCKER_HOST=unix://$RUN/docker.sock
    answers || start_engine
}

have() { docker image inspect "$1" >/dev/null 2>&1; }

pull() {
    have "$1" && return
    say "pulling $1"
    timeout 120 docker pull --quiet "$1" >/dev/null 2>&1
}

bootstrap() {  # a Debian with what both images need, once
    need_root "no registry has $PYTHON_IMAGE or $BROKER_IMAGE" "see to a network, or run this as root"
    install_packages debootstrap debootstrap
    say "no registry answers: making $PYTHON_IMAGE and $BROKER_IMAGE from Debian's packages"
    work=$(mktemp -d /tmp/p2ptrain-image.XXXXXX)
    debootstrap --variant=minbase --include=python3,python3-venv,iproute2,iptables "$DEBIAN" "$work/root" >"$work/log" 2>&1 ||
        fail "debootstrap: $(tail -n 1 "$work/log")"
    ln -s /usr/bin/python3 "$work/root/usr/local/bin/python"  # where the official image has it
    import "$PYTHON_IMAGE" 'CMD ["python"]'
    chroot "$work/root" apt-get install --yes --no-install-recommends mosquitto mosquitto-clients >"$work/log" 2>&1 ||
        fail "mosquitto in the base image: $(tail -n 1 "$work/log")"
    import "$BROKER_IMAGE" 'CMD ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]'
}

import() {  # NAME CHANGE
    have "$1" && return
    tar --directory "$work/root" --one-file-system --exclude './var/cache/apt/*' --exclude './var/lib/apt/lists/*' \
        --exclude './proc/*' --create . | docker import --change "$2" - "$1" >/dev/null
}

clean_up() {
    rm -rf "${work:-}"
    [ -z "${started:-}" ] || stop_engine
}

if [ "$*" = stop ]; then
    stop_engine
    exit
fi
trap clean_up EXIT
trap 'exit 130' INT TERM
find_engine
docker compose version >/dev/null 2>&1 || install_packages docker-compose docker-compose
{ pull "$PYTHON_IMAGE" && pull "$BROKER_IMAGE"; } || bootstrap
if [ $# -gt 0 ]; then
    "$@"
else
    started=
    [ -z "${DOCKER_HOST:-}" ] || echo "export DOCKER_HOST=$DOCKER_HOST"
fi
