# What follows is the same for every job. The variables above say which job, which nodes and how long.
set -euo pipefail
umask 077

folder="$work_folder/$run_name-$SLURM_JOB_ID"
mkdir -p "$folder"
printf '%s' "$job_yaml" > "$folder/job.yaml"
printf '%s' "$cluster_yaml" > "$folder/cluster.yaml"

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

for program in python ray orchestrator; do
  command -v "$program" > /dev/null || { say "launch.setup brings no $program on $(hostname); correct it"; exit 2; }
done

if [ -n "$secrets_file" ]; then
  [ -f "$secrets_file" ] || { say "launch.secrets_file: there is no $secrets_file on $(hostname)"; exit 2; }
  if [ "$(stat -c %a "$secrets_file")" != 600 ]; then
    say "$secrets_file can be read by others; run: chmod 600 $secrets_file"
    exit 2
  fi
  # shellcheck disable=SC1090
  . "$secrets_file"
  # Their names alone: what the run writes is masked where it holds one of the values.
  names=$(grep -oE 'export +[A-Za-z_][A-Za-z0-9_]*' "$secrets_file" | awk '{print $2}' | paste -sd, -) || true
  export ORCHESTRATOR_SECRETS="${ORCHESTRATOR_SECRETS:+$ORCHESTRATOR_SECRETS,}$names"
fi

# One token for this cluster: other users of the machine reach Ray's ports, and nothing behind them.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$folder/ray.token"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

export TMPDIR="$scratch"
export RAY_USAGE_STATS_ENABLED=0
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=$(hostname)
head_ip=$(getent ahostsv4 "$head_node" | awk 'NR == 1 {print $1}') || true
[ -n "$head_ip" ] || { say "$head_node has no IPv4 address, by which other nodes would reach Ray"; exit 2; }
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
    --num-cpus="$node_cpus" --num-gpus="$node_gpus" --object-store-memory="$store_bytes" \
    --object-spilling-directory="$scratch/spill-$SLURM_JOB_ID" "$@" > "$folder/ray-$node.log" 2>&1 &
  ray_pids+=($!)
}

count_nodes() {
  python -c 'import ray; ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' 2> /dev/null || echo 0
}

await_nodes() { # NUMBER
  until [ "$(count_nodes)" -ge "$1" ]; do
    for pid in "${ray_pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { say "Ray ended as it started; see $folder/ray-*.log"; exit 1; }
    done
    [ "$SECONDS" -lt "$deadline" ] || { say "fewer than $1 nodes have Ray; see $folder/ray-*.log"; exit 1; }
    sleep 1
  done
}

start_ray "$head_node" --head --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1
deadline=$((SECONDS + start_deadline_s))
await_nodes 1
for node in $nodes; do
  [ "$node" = "$head_node" ] || start_ray "$node" --address="$RAY_ADDRESS"
done
await_nodes "$SLURM_JOB_NUM_NODES"
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
if [ "$status" -eq 130 ] && [ "$warned" = yes ] && [ "$requeue" = yes ]; then
  say "the run is not at its end; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
