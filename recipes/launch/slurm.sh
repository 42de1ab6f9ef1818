#!/bin/bash
# A recipe on several machines of a Slurm cluster, continued by itself when its time is up.
#
#   sbatch --nodes 4 recipes/launch/slurm.sh RECIPE [any option of `hflm run`]
#
# Run it where `accelerate` and `hflm` are on the PATH and the folder is on a disk that all machines share. Another
# configuration than DDP: sbatch --export=ALL,CONFIG=recipes/launch/fsdp2_nodes.yaml ...
# Three minutes before the time limit, or when it is preempted, Slurm sends SIGTERM: the processes save a checkpoint at
# the same step and leave, the job is queued again, and the next one continues from there.
#SBATCH --job-name=hflm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hflm-%j.log

set -u
config=${CONFIG:-recipes/launch/ddp_nodes.yaml}
gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # jobs that share a machine do not share a port
# torch's elastic agent kills its processes 30 s after it is asked to stop; a checkpoint of a large model takes longer.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-150}

stopped=no
stop() {
  stopped=yes
  scancel --signal=TERM "$SLURM_JOB_ID"  # reaches every process of the steps, not this script
}
trap stop TERM

# SLURM_NODEID is another one on each machine, so it is read there.
srun --kill-on-bad-exit=0 bash -c 'exec accelerate launch --config_file "$0" --num_machines "$1" --num_processes "$2" \
  --main_process_ip "$3" --main_process_port "$4" --machine_rank "$SLURM_NODEID" -m hflm run "${@:5}"' \
  "$config" "$SLURM_NNODES" "$((SLURM_NNODES * gpus))" "$first" "$port" "$@" &
running=$!
wait "$running"
code=$?
while kill -0 "$running" 2>/dev/null; do  # the signal ended the first `wait`, not the run
  wait "$running"
  code=$?
done

# 143: stopped with a checkpoint saved. torchrun may give another code for the same end.
if [ "$code" -eq 143 ] || { [ "$stopped" = yes ] && [ "$code" -ne 0 ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
