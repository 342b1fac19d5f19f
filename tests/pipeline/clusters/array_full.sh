#!/bin/bash
#SBATCH --job-name=kinegraph
#SBATCH --array=0-7%4
#SBATCH --chdir=/home/me
#SBATCH --output=/shared/cache/slurm/20260101/log-%a.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=720
#SBATCH --signal=B:USR1@60
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --exclusive
set -e
module load cuda
export OMP_NUM_THREADS=6
exec /env/bin/python -P -m kinegraph slurm-task /shared/cache/slurm/20260101 "$SLURM_ARRAY_TASK_ID"
