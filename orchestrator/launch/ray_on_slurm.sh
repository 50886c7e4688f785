# What follows is the same for every job. The variables above say which job, which nodes and how long.
set -euo pipefail
umask 077

folder="$WORK_FOLDER/$RUN_NAME-$SLURM_JOB_ID"
mkdir -p "$folder"
printf '%s' "$JOB_YAML" > "$folder/job.yaml"
printf '%s' "$CLUSTER_YAML" > "$folder/cluster.yaml"

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

if [ -n "$SECRETS_FILE" ]; then
  if [ "$(stat -c %a "$SECRETS_FILE")" != 600 ]; then
    say "$SECRETS_FILE can be read by others; run: chmod 600 $SECRETS_FILE"
    exit 2
  fi
  # shellcheck disable=SC1090
  . "$SECRETS_FILE"
  # Their names alone: what the run writes is masked where it holds one of the values.
  names=$(grep -oE 'export +[A-Za-z_][A-Za-z0-9_]*' "$SECRETS_FILE" | awk '{print $2}' | paste -sd, -) || true
  export ORCHESTRATOR_SECRETS="${ORCHESTRATOR_SECRETS:+$ORCHESTRATOR_SECRETS,}$names"
fi

# One token for this cluster: other users of the machine reach Ray's ports, and nothing behind them.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$folder/ray.token"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

export TMPDIR="$SCRATCH"
export RAY_USAGE_STATS_ENABLED=0
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=$(hostname)
head_ip=$(getent ahostsv4 "$head_node" | awk 'NR == 1 {print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS="$head_ip:$port"

ray_pids=()
driver_pid=
clean_up() {
  for pid in "${ray_pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap clean_up EXIT

start_ray() { # NODE, then further options of `ray start`
  local node=$1
  shift
  srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap ray start --block --disable-usage-stats \
    --num-cpus="$NODE_CPUS" --num-gpus="$NODE_GPUS" --object-store-memory="$STORE_BYTES" \
    --object-spilling-directory="$SCRATCH/spill-$SLURM_JOB_ID" "$@" > "$folder/ray-$node.log" 2>&1 &
  ray_pids+=($!)
}

count_nodes() {
  python -c 'import ray; ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' 2> /dev/null || echo 0
}

start_ray "$head_node" --head --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1
deadline=$((SECONDS + START_DEADLINE_S))
until [ "$(count_nodes)" -ge 1 ]; do
  [ "$SECONDS" -lt "$deadline" ] || { say "Ray did not start on $head_node; see $folder/ray-$head_node.log"; exit 1; }
done
for node in $nodes; do
  [ "$node" = "$head_node" ] || start_ray "$node" --address="$RAY_ADDRESS"
done
until [ "$(count_nodes)" -ge "$SLURM_JOB_NUM_NODES" ]; do
  [ "$SECONDS" -lt "$deadline" ] || { say "not all $SLURM_JOB_NUM_NODES nodes joined; see $folder/ray-*.log"; exit 1; }
  sleep 2
done
say "Ray runs on $SLURM_JOB_NUM_NODES nodes at $RAY_ADDRESS"

# Slurm warns this shell (USR1) before the wall time ends, a user stops it (TERM); either way the driver writes a
# checkpoint and ends with code 130, and only Slurm's warning puts the job back into the queue.
interrupted=no
warned=no
forward() {
  interrupted=yes
  say "stopping: the run writes a checkpoint"
  if [ -n "$driver_pid" ]; then kill -TERM "$driver_pid" 2> /dev/null || true; fi
}
trap forward TERM
trap 'warned=yes; forward' USR1
orchestrator run "$folder/job.yaml" --cluster "$folder/cluster.yaml" &
driver_pid=$!
status=127
while :; do # a signal ends the wait, not the driver: wait again (127: it was waited for already)
  result=0
  wait "$driver_pid" || result=$?
  [ "$result" -eq 127 ] || status=$result
  [ "$interrupted" = yes ] || break
  interrupted=no
done
if [ "$status" -eq 130 ] && [ "$warned" = yes ] && [ "$REQUEUE" = yes ]; then
  say "the run is not at its end; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
