#!/usr/bin/env bash
# Train on several machines under Slurm: one torchrun per node, one process per GPU.
#
#   . .venv/bin/activate
#   sbatch docs/slurm.sh train.py --sync-bn
#   (cd step2 && sbatch ../docs/slurm.sh main.py train --config-path configs/voc12.yaml)
#
# Slurm passes the environment on, including the activated .venv. The repository, the data and the output folders
# must be on a file system that all nodes share. If the job is preempted or reaches its time limit, training saves
# its state and stops; the job is requeued and the same command resumes.
#
#SBATCH --job-name=mdba
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node need two ports

# torchrun kills its processes if they take longer than this to stop (default: 30 s; a validation may take longer).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150

# Time limit ahead: only this shell gets the signal, so that it can requeue the job.
near_limit=0
trap 'near_limit=1; kill -TERM "$step"' USR1
# Preemption or scancel: Slurm signals the step itself, and requeues a preempted job by itself.
trap : TERM

srun python -m torch.distributed.run \
	--nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
	--rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head_node:$port" \
	"$@" &
step=$!

# A trapped signal interrupts `wait`: repeat it until the step has ended.
while true; do
	wait "$step"
	status=$?
	kill -0 "$step" 2>/dev/null || break
done

if [ "$near_limit" = 1 ] && [ "$status" != 0 ]; then
	scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
