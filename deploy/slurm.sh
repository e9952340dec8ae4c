#!/usr/bin/env bash
# Two jobs on a Slurm cluster: a server that holds the trunk on one node, and a client that trains with it on another.
#
#   bash deploy/slurm.sh FOLDER [NAME=VALUE ...]
#
# FOLDER is new, and both nodes see it. NAME=VALUE are settings that both parties need alike: model, split, boundary, peft and
# optimizer. CLIENT has those of the client alone, SBATCH options of both jobs:
#
#   CLIENT="trainer.max_epochs=1 data.batch_size=4" SBATCH="--time=2:00:00 --partition=short" bash deploy/slurm.sh /shared/trial peft=lora
#
# The server makes the certificates, since it knows its node's name. The client ends the server when it is done, or has failed.
set -euo pipefail

# How long the client waits for the server's job to begin and to load its part.
WAIT_SECONDS=${WAIT_SECONDS:-3600}

submit() {
  local folder script server client
  folder=$(realpath -m "$1")
  script=$(realpath "$0")
  shift
  mkdir -p "$(dirname "$folder")"
  mkdir "$folder"
  # shellcheck disable=SC2086  # SBATCH is a list of words.
  server=$(sbatch --parsable --job-name=trunk --output="$folder/server.log" ${SBATCH:-} "$script" server "$folder" "$@")
  # shellcheck disable=SC2086
  client=$(sbatch --parsable --job-name=client --output="$folder/client.log" ${SBATCH:-} "$script" client "$folder" "${server%%;*}" "$@")
  echo "the server is job ${server%%;*}, the client job ${client%%;*}; both write to $folder"
}

serve() {
  local folder=$1 host
  shift
  host=$(hostname -f)
  python -m splitlearn certificates out="$folder/certificates" 'parties=[server,alice]' hosts="[$host]"
  # In the place of this shell, so that Slurm's signals reach it.
  exec python -m splitlearn serve part=trunk host="$host" port=0 certificates="$folder/certificates/server" \
    ready_file="$folder/ready" folder="$folder/trunk" "$@"
}

train() {
  local folder=$1 server=$2
  shift 2
  # shellcheck disable=SC2064  # The job's number is known now.
  trap "scancel --batch --signal=TERM $server" EXIT
  until [ -s "$folder/ready" ]; do
    if [ "$SECONDS" -ge "$WAIT_SECONDS" ]; then
      echo "the server (job $server) was not ready within $WAIT_SECONDS s; $folder/server.log says why" >&2
      exit 1
    fi
    sleep 1
  done
  # shellcheck disable=SC2086  # CLIENT is a list of words.
  python -m splitlearn train placement=u_shaped placement.server="$(cat "$folder/ready")" \
    placement.certificates="$folder/certificates/alice" hydra.run.dir="$folder/run" "$@" ${CLIENT:-}
}

case "${1:-}" in
  server) shift && serve "$@" ;;
  client) shift && train "$@" ;;
  "" | -*) echo "usage: bash deploy/slurm.sh FOLDER [NAME=VALUE ...]" >&2 && exit 2 ;;
  *) submit "$@" ;;
esac
