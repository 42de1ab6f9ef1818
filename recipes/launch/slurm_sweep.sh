#!/bin/bash
# A sweep by many workers on a Slurm cluster: an array of jobs, one GPU each.
#
#   sbatch --array=0-15 recipes/launch/slurm_sweep.sh RECIPE [any option of `hflm sweep`]
#
# Run it where `hflm` is on the PATH. The recipe's sweep.storage is a database's URL, or a journal file on a disk that all
# machines share; the workers divide the trials, and each job ends when all trials have ended.
# Three minutes before the time limit, or when it is preempted, Slurm sends SIGTERM: the worker saves a checkpoint of its
# trial and leaves, the job is queued again, and the trial continues there or in another worker.
# NOT tried on GPUs: none was at hand.
#SBATCH --job-name=hflm-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hflm-sweep-%A-%a.log

set -u
stopped=no running=
stop() {
  stopped=yes
  [ -z "$running" ] || kill -TERM "$running"
}
trap stop TERM
hflm sweep "$@" &
running=$!
[ "$stopped" = no ] || kill -TERM "$running"  # the signal came before
wait "$running"
code=$?
while kill -0 "$running" 2>/dev/null; do  # the signal ended the first `wait`, not the worker
  wait "$running"
  code=$?
done

# 143: stopped with a checkpoint saved, or between two trials.
if [ "$code" -eq 143 ] || { [ "$stopped" = yes ] && [ "$code" -ne 0 ]; }; then
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
