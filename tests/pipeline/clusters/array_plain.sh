#!/bin/bash
#SBATCH --job-name=kinegraph
#SBATCH --array=0-7
#SBATCH --chdir=/home/me
#SBATCH --output=/shared/cache/slurm/20260101/log-%a.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --cpus-per-task=1
#SBATCH --signal=B:USR1@60
exec /env/bin/python -P -m kinegraph slurm-task /shared/cache/slurm/20260101 "$SLURM_ARRAY_TASK_ID"
