"""Why a job still waits: Slurm's reasons in plain words (`hpc status X`), with what to do (`hpc why X`).

The table follows https://slurm.schedmd.com/job_reason_codes.html; a reason that is not in it is shown verbatim.
In the advice {x} stands for the words after the verb that name the plan, JOB for the job's id.
"""

from __future__ import annotations

import re

WAIT = "wait; hpc status {x} --watch shows when it starts"
OTHER = "scontrol show job JOB tells more; ask the cluster's staff with its output"

REASONS: tuple[tuple[str, str, str], ...] = (
    (r"sbatch has not answered", "another submit is at work on it", "wait a moment"),
    (r"its job has started", "its job has started and has not come to this stage", WAIT),
    (r"restart$|started again", "it was interrupted, saved, and waits to be started again", WAIT),
    (r"Priority|Prolog$", "other jobs are ahead of it in the queue", WAIT),
    (r"None$|^$", "the scheduler has not looked at it yet", WAIT),
    (
        r"Resources",
        "it is at the head of the queue and waits for free nodes",
        "wait; a shorter resources.*.hours or fewer GPUs may fit into a gap sooner",
    ),
    (r"BeginTime", "it was requeued: Slurm holds a requeued job back for two minutes", "wait two minutes"),
    (
        r"DependencyNeverSatisfied",
        "a job that makes its inputs has failed or was cancelled: it will never start",
        "hpc why {x} shows the parent's failure; hpc submit {x} starts both again",
    ),
    (r"Dependency", "it waits for the jobs that make its inputs", WAIT),
    (
        r"ReqNodeNotAvail|UnavailableNodes|Nodes_required_for_job_are_DOWN|NodeDown|ReservationDeleted",
        "the nodes it may use are down, drained or reserved (for maintenance, perhaps)",
        "sinfo -R and scontrol show reservation tell until when; fewer resources.*.hours may fit before a reservation",
    ),
    (
        r"PartitionTimeLimit",
        "it asks for more time than the partition allows: it will never start",
        "hpc cancel {x}, lower resources.*.hours below `sinfo -o '%P %l'` (set max_hours of the profile), and "
        "hpc submit {x}",
    ),
    (
        r"PartitionNodeLimit|PartitionConfig|BadConstraints|NodeConfig",
        "no node of the partition can give what it asks for: it will never start",
        "hpc cancel {x}, compare `sinfo -o '%P %D %c %m %G'` with resources and partition of the profile, and "
        "hpc submit {x}",
    ),
    (
        r"PartitionDown|PartitionInactive",
        "the partition is closed",
        "wait, or choose another partition in the profile, hpc cancel {x} and hpc submit {x}",
    ),
    (
        r"launch failed requeued held|JobHoldMaxRequeue|ReqHold|RequeueHold",
        "Slurm could not start it on its node, and holds it",
        "scontrol release JOB; if it happens again, exclude the node (sbatch: {exclude: NODE} of the profile)",
    ),
    (r"JobHeldUser", "you (or scontrol hold) hold it", "scontrol release JOB"),
    (r"JobHeldAdmin", "the cluster's staff hold it", "ask them why"),
    (
        r"JobArrayTaskLimit",
        "as many elements of its array run as array_throttle of the profile allows",
        "wait, or scontrol update JobId=JOB ArrayTaskThrottle=N",
    ),
    (
        r"AssocGrp\w*Minutes|AssocGrp\w*RunMinutes|QOSGrp\w*Minutes|AssocGrpBilling\w*|\w*BillingMinutes",
        "the account's or the group's budget of hours is used up",
        "sshare -l shows what is left; use another account in the profile, or ask for more",
    ),
    (
        r"QOSMax\w*PerUser\w*|QOSMax\w*PerJob\w*|QOSMaxWall\w*|AssocMax\w*|QOSMinGRES|QOSMax\w*|MaxWall\w*|QOSTimeLimit"
        r"|AssociationTimeLimit|QOSUsageThreshold|Max\w*Per(?:User|Account)\w*",
        "it is above a limit for one user or one job of the QoS or the account",
        "wait if your own jobs fill the limit; else compare `sacctmgr show qos format=name,maxtrespu,maxwall` and ask "
        "for less",
    ),
    (
        r"AssocGrp\w*|QOSGrp\w*|QOSResourceLimit|AssociationResourceLimit|\w*JobLimit|AccountingPolicy",
        "the jobs of your account or QoS fill its limit together",
        "wait until some of them end, or use another qos or account in the profile",
    ),
    (
        r"InvalidAccount|AccountNotAllowed|InvalidQOS|QOSNotAllowed",
        "the account or QoS may not be used there: it will never start",
        "hpc cancel {x}, correct account or qos of the profile (`sacctmgr show assoc user=$USER`), and hpc submit {x}",
    ),
    (r"Licenses", "it waits for a licence", WAIT),
    (r"Reservation", "it waits for its reservation to begin", "scontrol show reservation tells when"),
    (r"Cleaning|Configuring|NodeReboot|Reboot", "its nodes are being made ready", WAIT),
    (r"FrontEndDown|SchedDefer|DeadLine|ResourcesBusy", "the controller has put it off", WAIT),
)
"""(pattern, what it means, what to do); the first that matches counts."""


def explain(reason: str) -> tuple[str, str]:
    """What Slurm's reason for waiting means, and what to do."""
    return _row(reason) or (f"Slurm says: {reason}", OTHER)


def words(reason: str) -> str:
    """Slurm's reason for waiting behind what it means for the user; a text that is no such reason as it is."""
    found = _row(reason) if reason else None
    return f"{found[0]} ({reason})" if found else reason


def waits(reason: str) -> bool:
    """True for a reason to wait: of a job that is over it says nothing."""
    return _row(reason) is not None


def _row(reason: str) -> tuple[str, str] | None:
    word = reason.strip().strip("()")
    return next(((meaning, advice) for pattern, meaning, advice in REASONS if re.match(pattern, word)), None)
