#!/usr/bin/env bash
# Train under SLURM, on one node or many: a process for each GPU. Edit the #SBATCH lines for your cluster, then, in the
# folder of the project,
#
#     sbatch scripts/slurm_train.sh -opt options/train/EDVR/edvr_m_x4_reds.yml [other arguments of train.py]
#
# Two minutes before its time is over the run saves its state, and the job is queued again, until the run is finished. A
# run that fails is started again where it was, RESTARTS times at most. PYTHON names another interpreter than python.

#SBATCH --job-name=vsr
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" # SLURM runs a copy of this file, somewhere else

python=${PYTHON:-python}
restarts=${RESTARTS:-3}
told='' interrupted='' step=''

# The signal comes to this script alone; srun hands it on to all processes, which save their state and end.
note_signal() {
    told=1 interrupted=1
    if [[ -n $step ]]; then kill -USR1 "$step" 2>/dev/null || true; fi
}
trap note_signal USR1

# The folder of the run; the mistakes in the option file are found here, too, and told once.
folder=$(SLURM_NTASKS=1 "$python" train.py "$@" --where)

launch=(srun --kill-on-bad-exit=1)
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then launch+=("--cpus-per-task=$SLURM_CPUS_PER_TASK"); fi

arguments=("$@")
continue_from_now_on() { # --fresh is meant for the first start of all
    local argument
    arguments=()
    for argument; do
        if [[ $argument != --fresh ]]; then arguments+=("$argument"); fi
    done
}
if ((${SLURM_RESTART_COUNT:-0} > 0)); then continue_from_now_on "$@"; fi

status=1
for ((attempt = 0; attempt <= restarts; attempt++)); do
    if [[ -n $told ]]; then break; fi
    "${launch[@]}" "$python" train.py "${arguments[@]}" &
    step=$!
    while :; do # a signal ends the wait, not the run
        interrupted='' status=0
        wait "$step" || status=$?
        if [[ -z $interrupted ]]; then break; fi
    done
    step=''
    if ((status == 0)); then break; fi
    printf 'slurm_train.sh: start %d of %d ended with status %d\n' $((attempt + 1)) $((restarts + 1)) "$status" >&2
    continue_from_now_on "$@"
done

# A run that ended well and left no file PREEMPTED is finished, even if the signal came.
if [[ -n $told && (-e $folder/PREEMPTED || $status -ne 0) ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    status=0
fi
exit "$status"
