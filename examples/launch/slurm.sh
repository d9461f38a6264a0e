#!/bin/bash
# Four nodes of eight GPUs under SLURM: sbatch slurm.sh CORPUS RUN [flags of reformer train]
# Corpus and run lie on a file system that all nodes see. A job that is queued again goes on with the run.
#SBATCH --job-name=reformer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

corpus=$1 run=$2
shift 2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or restarts find the addresses of before

srun torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29400" \
    -m reformer train "$corpus" --out "$run" --resume auto "$@"
