#!/bin/sh
# epilog_slurmctld.sh: releases what the jobs of dead nodes had acquired. slurm.conf names it as
# EpilogSlurmctld; slurmctld runs it, as SlurmUser, at the end of each job.
#
# A node that lives releases by itself, when the job's last process has ended; here is nothing to do
# then. The settings are those of plugstack.conf; `grants` must be a folder that this machine and the
# nodes share, and SlurmUser root, or the last command one that SlurmUser may run as root (sudo).
grants=/run/hybridflow
definitions=/etc/hybridflow/qpus.json
python=/usr/bin/python3
helper=/usr/lib/hybridflow/slots.py
timeout=60

SLURM_CONF=/etc/slurm/slurm.conf
PATH=/usr/local/bin:/usr/bin:/bin
export SLURM_CONF PATH # slurmctld's own are not there
status=0
for file in "$grants"/*/jobs/"$SLURM_JOB_ID".json; do
    [ -e "$file" ] || continue
    node=${file#"$grants"/}
    node=${node%%/*}
    case $(sinfo --noheader --Node --nodes="$node" --format=%T | sort -u) in
    down* | drained\* | powered_down*) ;; # Slurm has given it up, and its jobs with it
    *) continue ;;
    esac
    reason=$(echo "job $SLURM_JOB_ID" | env -i timeout "$timeout" "$python" -I -B "$helper" end \
        --definitions "$definitions" --grants "$grants" --state "$grants" --node "$node") ||
        { status=1 && logger -t hybridflow "job $SLURM_JOB_ID on $node: $reason"; }
done
exit $status
